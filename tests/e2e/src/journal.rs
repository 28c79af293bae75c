//! Joins what the clients saw with what the resources wrote down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use crate::{
    load::{Ledger, Lost, Outcome},
    traffic::Client,
};

/// What one resource wrote down over all its runs.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The pid of each start.
    pub starts: Vec<String>,
    /// How often each id was given to it.
    pub requests: BTreeMap<String, u32>,
}

/// What became of all requests of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Answered by the resource.
    pub answered: usize,
    /// Told that they never reached it, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Closed by the other side before they arrived, while they were on their way.
    pub crossed: usize,
    /// Lost, with whether the resource had seen them.
    pub lost: Vec<(String, Lost, bool)>,
    /// Given to the resource again, once for each time.
    pub twice: Vec<String>,
    /// Given to it again, as a DLX says that it did: see [`allow_resent`](Self::allow_resent).
    pub resent: usize,
    /// Answered "never reached it", yet the resource had seen them.
    pub refused_but_seen: Vec<String>,
    /// Answered, yet no resource wrote them down: the harness is wrong.
    pub answered_unseen: Vec<String>,
    /// In a journal, yet no client sent them.
    pub unknown: Vec<String>,
}

// === impl Journal ===

impl Journal {
    /// Reads one file. A resource that never ran has none.
    ///
    /// # Panics
    ///
    /// A line makes no sense.
    pub fn read(path: &Path) -> Self {
        Self::parse(&fs::read_to_string(path).unwrap_or_default())
    }

    /// Reads a text.
    ///
    /// # Panics
    ///
    /// A line makes no sense.
    pub fn parse(text: &str) -> Self {
        let mut journal = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("start", pid)) => journal.starts.push(pid.to_owned()),
                Some(("request", id)) => *journal.requests.entry(id.to_owned()).or_default() += 1,
                _ => panic!("no journal's line: {line:?}"),
            }
        }
        journal
    }
}

// === impl Verdict ===

impl Verdict {
    /// Joins a ledger with the journals of all resources its requests went to.
    pub fn of(ledger: &Ledger, journals: impl IntoIterator<Item = Journal>) -> Self {
        let mut verdict = Self::default();
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for journal in journals {
            for (id, times) in journal.requests {
                *seen.entry(id).or_default() += times;
            }
        }
        let all = ledger.all();
        let known: BTreeSet<&String> = all.keys().collect();
        verdict.unknown = seen.keys().filter(|id| !known.contains(id)).cloned().collect();
        let again = |(id, times): (&String, &u32)| vec![id.clone(); times.saturating_sub(1) as usize];
        verdict.twice = seen.iter().flat_map(again).collect();
        for (id, outcome) in all {
            let arrived = seen.contains_key(&id);
            match outcome {
                Outcome::Answered { .. } if arrived => verdict.answered += 1,
                Outcome::Answered { .. } => verdict.answered_unseen.push(id),
                Outcome::Refused { .. } if arrived => verdict.refused_but_seen.push(id),
                Outcome::Refused { reason } => *verdict.refused.entry(reason).or_default() += 1,
                Outcome::Crossed if !arrived => verdict.crossed += 1,
                Outcome::Crossed => verdict.lost.push((id, Lost::NoAnswer("closed".into()), true)),
                Outcome::Lost(lost) => verdict.lost.push((id, lost, arrived)),
            }
        }
        verdict
    }

    /// Accepts as many of the repeated requests as the DLXs say they sent a second time. They send no lines again.
    pub fn allow_resent(&mut self, counted: f64) {
        let before = self.twice.len();
        let mut left = counted as usize;
        self.twice.retain(|id| {
            let allowed = left > 0 && !Client::Lines.sent(id);
            left -= usize::from(allowed);
            !allowed
        });
        self.resent += before - self.twice.len();
    }

    /// Losses by cause, the ids left out.
    pub fn causes(&self) -> BTreeMap<String, usize> {
        let mut causes = BTreeMap::new();
        for (_, lost, arrived) in &self.lost {
            let where_ = if *arrived { "had reached the resource" } else { "had not reached the resource" };
            *causes.entry(format!("{lost}; {where_}")).or_default() += 1;
        }
        causes
    }

    /// Nothing lost, nothing sent twice, no refusal.
    ///
    /// # Panics
    ///
    /// Something was lost; the message lists all of it.
    pub fn assert_nothing_lost(&self) {
        assert!(
            self.lost.is_empty() && self.refused.is_empty() && self.exact(),
            "{self}\nfirst losses: {:?}",
            &self.lost[..self.lost.len().min(10)]
        );
    }

    /// No request was sent twice, and no client got a wrong answer.
    pub fn exact(&self) -> bool {
        self.twice.is_empty()
            && self.refused_but_seen.is_empty()
            && self.answered_unseen.is_empty()
            && self.unknown.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, crossed, resent, .. } = self;
        writeln!(
            f,
            "answered {answered}, crossed {crossed}, sent a second time {resent}, lost {}",
            self.lost.len()
        )?;
        for (reason, count) in &self.refused {
            writeln!(f, "  503 x{count}: {reason}")?;
        }
        for (cause, count) in self.causes() {
            writeln!(f, "  lost x{count}: {cause}")?;
        }
        for (what, ids) in [
            ("sent twice", &self.twice),
            ("503, but the resource had seen it", &self.refused_but_seen),
            ("answered, but in no journal", &self.answered_unseen),
            ("in a journal, but never sent", &self.unknown),
        ] {
            if !ids.is_empty() {
                writeln!(f, "  {what} x{}: {:?}", ids.len(), &ids[..ids.len().min(5)])?;
            }
        }
        Ok(())
    }
}
