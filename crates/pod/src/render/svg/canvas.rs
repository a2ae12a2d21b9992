//! Shapes and words on a picture whose x axis is time.

use std::fmt::Write as _;

use crate::machine::Time;

/// A picture being drawn.
pub(super) struct Canvas {
    body: String,
    width: f64,
    left: f64,
    right: f64,
    /// Seconds from the left to the right.
    span: f64,
}

/// Which end of a text stands at its place.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// About how wide a text is, in pixels: letters of a sans-serif face are a little wider than half their height.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let units: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'l' | 'j' | 't' | 'f' | '.' | ',' | ':' | '\'' | '|' | ' ' | '(' | ')' | '/' => 0.36,
            'm' | 'w' | 'M' | 'W' => 0.92,
            c if c.is_ascii_uppercase() => 0.7,
            _ => 0.6,
        })
        .sum();
    units * size
}

impl Canvas {
    pub(super) fn new(width: f64, left: f64, right: f64, span: f64) -> Self {
        Self { body: String::new(), width, left, right, span }
    }

    pub(super) fn left(&self) -> f64 {
        self.left
    }

    pub(super) fn right(&self) -> f64 {
        self.right
    }

    /// The last moment on the axis.
    pub(super) fn end(&self) -> Time {
        Time::from_secs_f64(self.span)
    }

    pub(super) fn span(&self) -> f64 {
        self.span
    }

    pub(super) fn x(&self, at: Time) -> f64 {
        self.left + at.as_secs_f64().min(self.span) / self.span * (self.right - self.left)
    }

    /// Round moments for the axis, about one each 90 pixels.
    pub(super) fn ticks(&self) -> Vec<(Time, String)> {
        let wanted = ((self.right - self.left) / 90.0).max(1.0);
        let steps = [
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
            21600.0, 86400.0,
        ];
        let step = steps.into_iter().find(|s| self.span / s <= wanted).unwrap_or(86_400.0);
        let count = (self.span / step).floor() as u64;
        (0..=count)
            .map(|i| {
                let at = i as f64 * step;
                let label = if step >= 3600.0 {
                    format!("{} h", at / 3600.0)
                } else if step >= 60.0 {
                    format!("{} min", at / 60.0)
                } else {
                    format!("{} s", (at * 10.0).round() / 10.0)
                };
                (Time::from_secs_f64(at), label)
            })
            .collect()
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = escape(text);
        let _ =
            writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\"{anchor}>{text}</text>");
    }

    /// A text in a stretch of time, if it fits.
    pub(super) fn inside(&mut self, from: Time, to: Time, y: f64, class: &str, text: &str) {
        let (a, b) = (self.x(from), self.x(to));
        if !text.is_empty() && text_width(text, 10.0) + 6.0 <= b - a {
            self.text(f64::midpoint(a, b), y, Anchor::Middle, class, text);
        }
    }

    /// A stretch of time with its name: the first of the labels that fits; the first one is in the tooltip.
    pub(super) fn band(&mut self, from: Time, to: Time, y: f64, height: f64, class: &str, labels: &[&str]) {
        let label = labels.first().copied().unwrap_or_default();
        let title = format!("{label}: {:.2} s to {:.2} s", from.as_secs_f64(), to.as_secs_f64());
        self.rect(from, to, y, height, class, &title);
        let (a, b) = (self.x(from), self.x(to));
        if let Some(label) = labels.iter().find(|l| text_width(l, 11.0) + 6.0 <= b - a) {
            self.text(a + 3.0, y + 14.0, Anchor::Start, "band-label", label);
        }
    }

    pub(super) fn rect(&mut self, from: Time, to: Time, y: f64, height: f64, class: &str, title: &str) {
        let x = self.x(from);
        let width = (self.x(to) - x).max(1.5);
        self.shape(
            &format!(
                "rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\""
            ),
            "rect",
            title,
        );
    }

    pub(super) fn raw_rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>"
        );
    }

    pub(super) fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        self.raw_line(x1, y1, x2, y2, class);
    }

    pub(super) fn raw_line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    pub(super) fn dot(&mut self, x: f64, y: f64, class: &str, title: &str) {
        self.shape(&format!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"{class}\""), "circle", title);
    }

    /// A signal: an arrow down to the bar.
    pub(super) fn arrow(&mut self, x: f64, top: f64, bottom: f64, class: &str, title: &str) {
        let shape = format!(
            "path d=\"M{x:.1} {top:.1}V{bottom:.1}M{:.1} {:.1}L{x:.1} {bottom:.1}L{:.1} {:.1}\" class=\"{class} arrow\"",
            x - 3.5,
            bottom - 5.0,
            x + 3.5,
            bottom - 5.0
        );
        self.shape(&shape, "path", title);
    }

    /// The end of a process.
    pub(super) fn exit(&mut self, x: f64, y: f64, good: bool, title: &str) {
        if good {
            self.shape(
                &format!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"exit-ok\""),
                "circle",
                title,
            );
            return;
        }
        let (a, b, c, d) = (x - 5.0, x + 5.0, y - 5.0, y + 5.0);
        let shape =
            format!("path d=\"M{a:.1} {c:.1}L{b:.1} {d:.1}M{b:.1} {c:.1}L{a:.1} {d:.1}\" class=\"exit-x\"");
        self.shape(&shape, "path", title);
    }

    fn shape(&mut self, open: &str, name: &str, title: &str) {
        let _ = if title.is_empty() {
            writeln!(self.body, "<{open}/>")
        } else {
            writeln!(self.body, "<{open}><title>{}</title></{name}>", escape(title))
        };
    }

    /// The picture, with its styles.
    pub(super) fn finish(self, height: f64) -> String {
        let Self { body, width, .. } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<style>{STYLE}</style>\n{PATTERNS}\n\
             <rect width=\"100%\" height=\"100%\" class=\"paper\"/>\n{body}</svg>\n"
        )
    }
}

/// What XML reserves, and characters that it does not allow at all.
pub(in crate::render) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

const PATTERNS: &str = "<defs><pattern id=\"hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
    patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"#fdeaea\"/><rect width=\"2\" height=\"7\" \
    fill=\"#e8a3a3\"/></pattern></defs>";

const STYLE: &str = "
text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2933;font-size:11px}
.paper{fill:#fff}
.title{font-size:19px;font-weight:700}.sub{font-size:12px;fill:#52606d}
.name{font-size:13px;font-weight:700}.role,.tick,.probe-name{fill:#7b8794;font-size:10px}
.band-name{font-size:11px;fill:#52606d}.band-label{font-size:11px}.label{fill:#52606d}
.grid{stroke:#e4e7eb;stroke-width:1}.rule{stroke:#cbd2d9;stroke-width:1}
.phase-pending{fill:#fff3c4}.phase-running{fill:#c1eac5}.phase-succeeded{fill:#8eedc7}.phase-failed{fill:#facdcd}
.phase-pending,.phase-running,.phase-succeeded,.phase-failed,.status{stroke:#fff;stroke-width:1.5}
.status{fill:#e4e7eb}
.wait{fill:#eef1f4;stroke:#cbd2d9;stroke-width:.5}.wait-label{fill:#7b8794;font-size:10px}
.backoff{fill:url(#hatch);stroke:#e8a3a3;stroke-width:.5}.backoff-label{fill:#8a1c1c;font-size:10px;paint-order:stroke;stroke:#fff;stroke-width:3px}
.run{fill:#f7c948}.started{fill:#5a9bd8}.ready{fill:#3ebd73}
.bar-label{fill:#fff;font-weight:700;paint-order:stroke;stroke:#1f2933;stroke-opacity:.35;stroke-width:2px}
.stopping{fill:#de6b1f}
.hook{fill:#8662c7}.hook-bad{fill:#c0398f}.hook-label{fill:#5d3fa0;font-size:10px;paint-order:stroke;stroke:#fff;stroke-width:3px}
.probe-ok{fill:#2f9e5b}.probe-bad{fill:#d64545}.probe-error{fill:#9aa5b1}
.arrow{fill:none;stroke:#b44d12;stroke-width:1.6}.arrow.kill{stroke:#ba2525}
text.signal{fill:#b44d12;font-size:10px;font-weight:700;paint-order:stroke;stroke:#fff;stroke-width:3px}text.kill{fill:#ba2525}
.exit-ok{fill:#fff;stroke:#1b7a43;stroke-width:2.5}.exit-x{stroke:#ba2525;stroke-width:2.6;fill:none}
.exit-label{font-size:10px;fill:#1b7a43;paint-order:stroke;stroke:#fff;stroke-width:3px}.exit-bad{fill:#ba2525}
.grace{fill:#de6b1f;fill-opacity:.1}.deadline{stroke:#de6b1f;stroke-width:1.5}.deadline-label{fill:#b44d12;font-size:10px;paint-order:stroke;stroke:#fff;stroke-width:3px}
.budget-frame{fill:#f5f7fa;stroke:#cbd2d9}.budget-a{fill:#f0a868}.budget-b{fill:#f7c99b}.budget-over{fill:#d64545}
.script{stroke:#1f2933;stroke-width:1;stroke-dasharray:4 3}.flag{fill:#1f2933}.flag-label{fill:#fff}
";
