//! A graph of names, and the circles in it.

use std::collections::{BTreeMap, BTreeSet};

/// Directed edges between names, each with the place in the source that makes it.
#[derive(Debug, Default)]
pub(super) struct Graph {
    edges: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    /// Adds an edge. The first place that is given for an edge is kept.
    pub(super) fn add(&mut self, from: &str, to: &str, place: &str) {
        self.edges
            .entry(from.to_owned())
            .or_default()
            .entry(to.to_owned())
            .or_insert_with(|| place.to_owned());
    }

    /// One circle for each group of names that reach each other: the places of its edges, in order.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        let mut circles = Vec::new();
        let mut done = BTreeSet::new();

        for start in self.edges.keys() {
            if done.contains(start) {
                continue;
            }

            if let Some(path) = self.path_back_to(start) {
                done.extend(path.iter().cloned());
                circles.push(self.places(&path));
            }
        }

        circles
    }

    /// The shortest way from a name back to itself, as the names on it; it begins with the name.
    fn path_back_to(&self, start: &str) -> Option<Vec<String>> {
        let mut previous: BTreeMap<&str, &str> = BTreeMap::new();
        let mut front = vec![start];

        while !front.is_empty() {
            let mut next = Vec::new();

            for from in front {
                for to in self.edges.get(from).into_iter().flat_map(BTreeMap::keys) {
                    if to == start {
                        return Some(unwind(&previous, start, from));
                    }
                    if !previous.contains_key(to.as_str()) {
                        previous.insert(to, from);
                        next.push(to.as_str());
                    }
                }
            }

            front = next;
        }

        None
    }

    fn places(&self, path: &[String]) -> Vec<String> {
        let nexts = path.iter().cycle().skip(1);

        path.iter()
            .zip(nexts)
            .filter_map(|(from, to)| self.edges.get(from)?.get(to).cloned())
            .collect()
    }
}

/// Follows a breadth-first search back from its end to its start.
fn unwind(previous: &BTreeMap<&str, &str>, start: &str, end: &str) -> Vec<String> {
    let mut path = vec![end.to_owned()];
    let mut at = end;

    while at != start {
        at = previous[at];
        path.push(at.to_owned());
    }

    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_with_the_places_of_its_edges() {
        let mut graph = Graph::default();
        graph.add("a", "b", "a uses b");
        graph.add("b", "c", "b uses c");
        graph.add("c", "b", "c uses b");

        assert_eq!(graph.circles(), [["b uses c", "c uses b"]]);
    }

    #[test]
    fn a_diamond_is_no_circle() {
        let mut graph = Graph::default();
        for (from, to) in [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")] {
            graph.add(from, to, "");
        }

        assert!(graph.circles().is_empty());
    }

    #[test]
    fn a_name_that_leads_into_a_circle_is_no_part_of_it() {
        let mut graph = Graph::default();
        graph.add("a", "b", "ab");
        graph.add("b", "c", "bc");
        graph.add("c", "b", "cb");
        graph.add("a", "c", "ac");

        assert_eq!(graph.circles(), [["bc", "cb"]]);
    }
}
