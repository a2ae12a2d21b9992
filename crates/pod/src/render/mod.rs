//! A timeline as text, as a picture and as a page. JSON is the timeline itself.
//!
//! Nothing is computed here that is not in the timeline: a picture shows what was recorded.

pub mod html;
pub mod svg;
pub mod text;

use std::fmt;

use crate::{
    machine::Time,
    simulate::timeline::{Ending, Timeline},
};

/// Seconds with no more digits than they need.
fn short(time: Time) -> String {
    let text = format!("{:.2}", time.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The API's word for a phase or the type of a condition: their variants have these very names.
fn word(of: impl fmt::Debug) -> String {
    format!("{of:?}")
}

/// Why the recording ended, in a few words.
fn ending(timeline: &Timeline) -> &'static str {
    match timeline.ending {
        Ending::Terminal => "the pod has ended",
        Ending::Gone => "the pod is deleted",
        Ending::Until => "the time of the script is over",
        Ending::Still => "nothing more would happen",
    }
}
