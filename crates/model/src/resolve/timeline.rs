//! The timeline of a run: changes by time, contradictions refused.

use super::Resolver;
use super::network::Scene;
use crate::topology::{Change, Link};

impl Resolver<'_> {
    /// The changes of a run, by time.
    pub(super) fn timeline(&self, scene: &Scene<'_>, links: &[Link]) -> Vec<Change> {
        for change in self.composition.timeline.iter().filter(|_| scene.counts.is_some() || links.is_empty())
        {
            self.error(change.at.place.error("a timeline is not there yet"));
        }
        Vec::new()
    }
}
