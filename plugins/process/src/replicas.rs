//! The runs of one process, as its record keeps them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::run::Run;

/// What is up of a process. The file has one run alone as an earlier version wrote it, whose shim may still be running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Replicas {
    /// One per replica, the oldest first.
    pub runs: Vec<Run>,
    /// Those that a step down took away, and that may still finish their work.
    pub stopping: Vec<Run>,
    /// When a scale last changed the runs, in seconds since 1970.
    pub last_scaled: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    One(Run),
    Many {
        replicas: Vec<Run>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stopping: Vec<Run>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_scaled: Option<u64>,
    },
}

// === impl Replicas ===

impl Replicas {
    /// All that is not known to have ended.
    pub fn all(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().chain(&self.stopping)
    }

    /// The same without a run; none: nothing is left.
    pub fn without(&self, run: &Run) -> Option<Self> {
        let mut left = self.clone();
        left.runs.retain(|one| one.id != run.id);
        left.stopping.retain(|one| one.id != run.id);
        let is_empty = left.all().next().is_none();
        (!is_empty).then_some(left)
    }

    /// The lowest number that no run has.
    pub fn free_number(&self) -> u32 {
        (0..).find(|number| self.all().all(|run| run.replica != *number)).unwrap_or_default()
    }

    /// Takes the youngest away until so many are left. Returns those that are to be stopped.
    pub fn shrink(&mut self, count: usize) -> Vec<Run> {
        let removed = self.runs.split_off(count.min(self.runs.len()));
        self.stopping.extend(removed.iter().cloned());
        removed
    }

    /// Their number is changed now.
    pub fn stamp(&mut self) {
        self.last_scaled = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    }
}

impl From<Kept> for Replicas {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::One(run) => Self { runs: vec![run], ..Self::default() },
            Kept::Many { replicas, stopping, last_scaled } => Self { runs: replicas, stopping, last_scaled },
        }
    }
}

impl From<Replicas> for Kept {
    fn from(Replicas { mut runs, stopping, last_scaled }: Replicas) -> Self {
        match (runs.pop(), runs.is_empty() && stopping.is_empty() && last_scaled.is_none()) {
            (Some(run), true) => Self::One(run),
            (last, _) => {
                runs.extend(last);
                Self::Many { replicas: runs, stopping, last_scaled }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(id: &str, replica: u32) -> Run {
        Run { id: id.to_owned(), shim_pid: 1, port: None, replica, ready_path: None, log_offset: 0 }
    }

    #[test]
    fn one_run_is_stored_as_an_earlier_version_stored_it() {
        let stored = json!({"id": "a", "shim_pid": 7, "port": 9000, "log_offset": 3});
        let read: Replicas = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!((read.runs.len(), read.runs[0].port, read.runs[0].replica), (1, Some(9000), 0));
        assert_eq!(serde_json::to_value(&read).unwrap(), stored);
        for many in [
            Replicas { runs: vec![run("a", 0), run("b", 1)], ..Replicas::default() },
            Replicas { runs: vec![run("a", 0)], last_scaled: Some(5), ..Replicas::default() },
            Replicas { stopping: vec![run("a", 2)], ..Replicas::default() },
            Replicas::default(),
        ] {
            let text = serde_json::to_string(&many).unwrap();
            assert_eq!(serde_json::from_str::<Replicas>(&text).unwrap(), many, "{text}");
        }
    }

    #[test]
    fn the_youngest_go_first_and_their_numbers_are_taken_until_they_have_ended() {
        let mut replicas =
            Replicas { runs: (0..4).map(|n| run(&n.to_string(), n)).collect(), ..Replicas::default() };
        let removed = replicas.shrink(1);
        assert_eq!(removed.iter().map(|run| run.replica).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((replicas.runs.len(), replicas.free_number()), (1, 4));
        let left = replicas.without(&removed[1]).unwrap();
        assert_eq!((left.stopping.len(), left.free_number()), (2, 2));
        assert_eq!(Replicas { runs: vec![run("a", 0)], ..Replicas::default() }.without(&run("a", 0)), None);
        assert!(replicas.shrink(9).is_empty());
    }
}
