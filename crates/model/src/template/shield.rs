//! What is checked of a template before it is parsed: its length, how deep it is nested (the parser recurses), and that
//! every block is closed (the parser takes the end of the text for the end of a block).

use crate::diagnostic::{Diagnostic, Source};

/// The deepest nesting of blocks, and of parentheses in an action.
const MAX_DEPTH: usize = 100;

/// The longest text.
const MAX_TEXT: usize = 16 << 20;

/// What is too long, nested too deeply, or not closed.
pub(super) fn check(source: &Source) -> Option<Diagnostic> {
    let text = source.text();
    if text.len() > MAX_TEXT {
        return Some(source.start().error(format!("the composition is longer than {MAX_TEXT} bytes")));
    }
    // Each open block with the levels it adds: an `else if` lies in the block before.
    let mut open: Vec<(usize, usize, &str)> = Vec::new();
    let mut depth = 0;
    let mut rest = 0;
    while let Some(start) = text[rest..].find("{{").map(|at| rest + at) {
        // An action without an end is the parser's to refuse.
        let length = action_length(&text[start..])?;
        let end = start + length;
        let action = text[start + 2..end - 2].trim_start_matches('-').trim_start();
        let place = || source.place(start..end, "");
        let word = action.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        match word {
            "if" | "range" | "with" | "block" | "define" => {
                open.push((start, 1, word));
                depth += 1;
            }
            "else" if !action[4..].trim_end_matches('-').trim().is_empty() => {
                if let Some((_, levels, _)) = open.last_mut() {
                    *levels += 1;
                    depth += 1;
                }
            }
            "end" => match open.pop() {
                Some((_, levels, _)) => depth -= levels,
                None => {
                    return Some(place().error(
                        "failed to process composition template: unexpected {{end}}: no block is open",
                    ));
                }
            },
            _ => {}
        }
        if depth > MAX_DEPTH || parentheses(action) > MAX_DEPTH {
            let message = format!("the template is nested more than {MAX_DEPTH} levels deep");
            return Some(place().error(message));
        }
        rest = end;
    }
    let Some((start, _, word)) = open.pop() else { return undeclared(source) };
    let message =
        format!("failed to process composition template: unexpected EOF: this {word} is never closed");
    Some(source.place(start..start + 2, "").error(message))
}

/// An assignment to a variable that no action of the text declares: the engine would take it for a declaration.
fn undeclared(source: &Source) -> Option<Diagnostic> {
    let text = source.text();
    let mut declared: Vec<&str> = Vec::new();
    let mut assigned: Vec<(usize, &str)> = Vec::new();
    let mut rest = 0;
    while let Some(start) = text[rest..].find("{{").map(|at| rest + at) {
        let end = start + action_length(&text[start..])?;
        let action = &text[start..end];
        // Variables on the left stand before everything else but the keyword, so that no text in quotes comes before.
        let left = action.find('=').map_or("", |at| &action[..at]);
        if !left.contains(['"', '`', '\'']) && !left.contains("/*") {
            for (at, _) in left.match_indices('$') {
                let name = &left[at..];
                let length =
                    name[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(name.len(), |n| n + 1);
                if left.ends_with(':') {
                    declared.push(&name[..length]);
                } else {
                    assigned.push((start + at, &name[..length]));
                }
            }
        }
        rest = end;
    }
    let (at, name) = assigned.into_iter().find(|(_, name)| !declared.contains(name))?;
    let message =
        format!("failed to process composition template: undefined variable: {name} (`:=` declares one)");
    let known = declared.into_iter();
    Some(source.place(at..at + name.len(), "").error(message).suggest_nearest(name, known))
}

/// The length of the action that a text begins with: up to its `}}`, quotes and comments respected.
pub(crate) fn action_length(text: &str) -> Option<usize> {
    if text.starts_with("{{/*") || text.starts_with("{{- /*") {
        let end = text.find("*/")?;
        return Some(end + text[end..].find("}}")? + 2);
    }
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(q) if c == '\\' && q != '`' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at + 2),
            None => {}
        }
    }
    None
}

/// How deep parentheses lie in each other.
fn parentheses(action: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for c in action.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
