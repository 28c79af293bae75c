//! Finds what selects an object by its labels without asking everybody.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::objects::Labels;

/// Things that select by labels, each under one label that it wants.
#[derive(Debug)]
pub(crate) struct SelectorIndex<T> {
    places: HashMap<Place, BTreeSet<T>>,
    /// Where each is.
    of: HashMap<T, Place>,
}

/// A namespace and a label; without the label for those that want none in particular.
type Place = (Arc<str>, Option<(String, String)>);

// === impl SelectorIndex ===

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), of: HashMap::new() }
    }
}

impl<T: Clone + Ord + std::hash::Hash> SelectorIndex<T> {
    /// Puts one where it is found by any object that has these labels among others.
    pub(crate) fn put(&mut self, one: T, namespace: &Arc<str>, wanted: &Labels) {
        if let Some(place) = self.of.get(&one) {
            let still = match &place.1 {
                Some((key, value)) => wanted.get(key) == Some(value),
                None => wanted.is_empty(),
            };
            if still {
                return;
            }
            self.remove(&one);
        }
        // Under the rarest of its labels: a label that all have selects nothing.
        let rarest = wanted
            .iter()
            .map(|(key, value)| (namespace.clone(), Some((key.clone(), value.clone()))))
            .min_by_key(|place| self.places.get(place).map_or(0, BTreeSet::len));
        let place = rarest.unwrap_or_else(|| (namespace.clone(), None));
        self.places.entry(place.clone()).or_default().insert(one.clone());
        self.of.insert(one, place);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, one: &T) {
        let Some(place) = self.of.remove(one) else { return };
        if let Some(there) = self.places.get_mut(&place) {
            there.remove(one);
            if there.is_empty() {
                self.places.remove(&place);
            }
        }
    }

    /// Those that may select an object with these labels.
    pub(crate) fn candidates<'a>(&'a self, namespace: &Arc<str>, labels: &Labels) -> Vec<&'a T> {
        let by_label = labels.iter().map(|(key, value)| Some((key.clone(), value.clone())));
        by_label
            .chain([None])
            .filter_map(|label| self.places.get(&(namespace.clone(), label)))
            .flatten()
            .collect()
    }
}

/// Things by every one of their labels.
#[derive(Debug)]
pub(crate) struct LabelIndex<T> {
    places: HashMap<(Arc<str>, String, String), BTreeSet<T>>,
}

// === impl LabelIndex ===

impl<T> Default for LabelIndex<T> {
    fn default() -> Self {
        Self { places: HashMap::new() }
    }
}

impl<T: Clone + Ord> LabelIndex<T> {
    /// One is there with these labels, or no longer.
    pub(crate) fn set(&mut self, one: &T, namespace: &Arc<str>, labels: &Labels, there: bool) {
        for (key, value) in labels {
            let place = (namespace.clone(), key.clone(), value.clone());
            if there {
                self.places.entry(place).or_default().insert(one.clone());
            } else if let Some(all) = self.places.get_mut(&place) {
                all.remove(one);
                if all.is_empty() {
                    self.places.remove(&place);
                }
            }
        }
    }

    /// Those that have all of these labels; none for none.
    pub(crate) fn with(&self, namespace: &Arc<str>, wanted: &Labels) -> Vec<T> {
        let mut sets = Vec::new();
        for (key, value) in wanted {
            match self.places.get(&(namespace.clone(), key.clone(), value.clone())) {
                Some(set) => sets.push(set),
                None => return Vec::new(),
            }
        }
        sets.sort_by_key(|set| set.len());
        let Some((rarest, others)) = sets.split_first() else { return Vec::new() };
        rarest.iter().filter(|one| others.iter().all(|set| set.contains(*one))).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_all_the_labels_is_found() {
        let labels = |text: &str| crate::objects::Selector::parse(text).equal;
        let shop: Arc<str> = "shop".into();
        let mut index = LabelIndex::default();
        index.set(&1, &shop, &labels("app=web,tier=front"), true);
        index.set(&2, &shop, &labels("app=web,tier=back"), true);
        assert_eq!(index.with(&shop, &labels("app=web")), [1, 2]);
        assert_eq!(index.with(&shop, &labels("app=web,tier=back")), [2]);
        assert_eq!(index.with(&shop, &labels("app=web,tier=side")), Vec::<i32>::new());
        assert_eq!(index.with(&shop, &labels("")), Vec::<i32>::new());
        assert_eq!(index.with(&"other".into(), &labels("app=web")), Vec::<i32>::new());
        index.set(&2, &shop, &labels("app=web,tier=back"), false);
        assert_eq!(index.with(&shop, &labels("app=web")), [1]);
    }

    #[test]
    fn everything_that_selects_an_object_is_found_and_little_more() {
        let labels = |text: &[(&str, &str)]| -> Labels {
            text.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let shop: Arc<str> = "shop".into();
        let mut index = SelectorIndex::default();
        for number in 0..100 {
            index.put(number, &shop, &labels(&[("all", "same"), ("app", &number.to_string())]));
        }
        index.put(1_000, &shop, &labels(&[]));
        let found = index.candidates(&shop, &labels(&[("all", "same"), ("app", "7"), ("more", "x")]));
        assert!(found.contains(&&7) && found.contains(&&1_000) && found.len() <= 3, "{found:?}");
        assert_eq!(index.candidates(&"other".into(), &labels(&[("app", "7")])), Vec::<&i32>::new());
        index.put(7, &shop, &labels(&[("app", "seven")]));
        assert!(!index.candidates(&shop, &labels(&[("all", "same"), ("app", "7")])).contains(&&7));
        assert!(index.candidates(&shop, &labels(&[("app", "seven")])).contains(&&7));
        index.remove(&7);
        assert!(!index.candidates(&shop, &labels(&[("app", "seven")])).contains(&&7));
    }
}
