//! Which resources serve which domains: two with the same one is allowed, and seldom meant. No I/O.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{apply::Neighbour, view::Id};

/// The index.
#[derive(Default)]
pub struct Neighbours {
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    domains: HashMap<Id, BTreeSet<String>>,
    served_by: HashMap<String, BTreeSet<Id>>,
}

impl Neighbours {
    /// A resource serves these, and no others. Returns those whose neighbours are others now.
    pub fn serve(&self, id: &Id, domains: &[String]) -> BTreeSet<Id> {
        let now: BTreeSet<String> = domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let mut index = self.index();
        let before = index.domains.get(id).cloned().unwrap_or_default();
        let mut concerned = BTreeSet::new();
        for domain in before.difference(&now) {
            let Some(served_by) = index.served_by.get_mut(domain) else { continue };
            served_by.remove(id);
            concerned.extend(served_by.iter().cloned());
            if served_by.is_empty() {
                index.served_by.remove(domain);
            }
        }
        for domain in now.difference(&before) {
            let served_by = index.served_by.entry(domain.clone()).or_default();
            concerned.extend(served_by.iter().cloned());
            served_by.insert(id.clone());
        }
        if now.is_empty() {
            index.domains.remove(id);
        } else {
            index.domains.insert(id.clone(), now);
        }
        concerned
    }

    /// Others that serve one of its domains, in a fixed order.
    pub fn of(&self, id: &Id) -> Vec<Neighbour> {
        let index = self.index();
        let mut neighbours = Vec::new();
        for domain in index.domains.get(id).into_iter().flatten() {
            let others = index.served_by.get(domain).into_iter().flatten().filter(|other| *other != id);
            neighbours.extend(others.map(|Id { namespace, name }| Neighbour {
                namespace: namespace.clone(),
                name: name.clone(),
                domain: domain.clone(),
            }));
        }
        neighbours.sort();
        neighbours
    }

    /// All that serve anything.
    pub fn ids(&self) -> Vec<Id> {
        self.index().domains.keys().cloned().collect()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        Id { namespace: "mail".into(), name: name.into() }
    }

    fn domains(all: &[&str]) -> Vec<String> {
        all.iter().map(|&domain| domain.to_owned()).collect()
    }

    #[test]
    fn both_know_of_each_other_until_one_serves_it_no_more() {
        let neighbours = Neighbours::default();
        assert_eq!(neighbours.serve(&id("a"), &domains(&["x.example", "y.example"])), BTreeSet::new());
        assert_eq!(neighbours.serve(&id("b"), &domains(&["X.example"])), [id("a")].into());
        assert_eq!(neighbours.serve(&id("b"), &domains(&["x.example"])), BTreeSet::new(), "nothing changed");
        for (of, other) in [("a", "b"), ("b", "a")] {
            let neighbour = Neighbour { namespace: "mail".into(), name: other.into(), domain: "x.example".into() };
            assert_eq!(neighbours.of(&id(of)), [neighbour]);
        }
        assert_eq!(neighbours.serve(&id("b"), &[]), [id("a")].into());
        assert_eq!(neighbours.of(&id("a")), []);
    }
}
