//! No cycles between the top-level modules of a product crate: each can be read with only those below it in mind.
//!
//! A module depends on another if its files name it by a path that starts at the crate's root: `crate::other`, enough
//! `super`s, or a name that the root re-exports from it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
};

use anyhow::{Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{Crate, is_punct, use_names};

/// Module -> module -> where it is named, as `file:line: text`.
type Graph = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Fails if top-level modules depend on each other in a circle.
///
/// # Errors
///
/// Every cycle found, with the lines that make it.
pub fn check(crates: &[Crate]) -> Result<()> {
    let mut found = String::new();
    for source in crates {
        for cycle in cycles(&graph(source)) {
            write!(found, "\n{}: {cycle}", source.folder.display())?;
        }
    }
    if !found.is_empty() {
        bail!("modules that depend on each other:\n{found}");
    }
    Ok(())
}

/// Modules of which each depends, directly or not, on each.
#[derive(Debug)]
struct Cycle {
    modules: Vec<String>,
    /// A shortest way around: from, to, and the lines of it.
    steps: Vec<(String, String, Vec<String>)>,
}

/// Who names whom among the top-level modules.
fn graph(source: &Crate) -> Graph {
    let modules = source.top_modules();
    let reexports = root_names(source);
    let mut graph = Graph::new();
    for file in &source.files {
        let Some(from) = file.module.first() else { continue };
        let mut named = Vec::new();
        find_root_paths(file.tokens.clone(), file.module.len(), &mut named);
        for (name, line) in named {
            let to = match reexports.get(&name) {
                _ if modules.contains(name.as_str()) => &name,
                Some(module) => module,
                None => continue,
            };
            if to != from {
                let lines = graph.entry(from.clone()).or_default().entry(to.clone()).or_default();
                lines.push(file.show(line));
            }
        }
    }
    graph
}

/// What the root re-exports, by name, and from which of its modules.
fn root_names(source: &Crate) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut tokens = source.files[0].tokens.clone().into_iter();
    while let Some(token) = tokens.next() {
        if matches!(&token, TokenTree::Ident(word) if word == "use") {
            let tree = tokens.by_ref().take_while(|token| !is_punct(token, ';'));
            for (name, mut path) in use_names(tree) {
                path.retain(|part| part != "crate" && part != "self");
                names.extend(path.into_iter().next().map(|module| (name, module)));
            }
        }
    }
    names
}

/// The first name of every path that starts at the crate's root, with its line. `depth`: how many `super`s lead there.
fn find_root_paths(tokens: TokenStream, depth: usize, named: &mut Vec<(String, usize)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_word =
        |index: usize, text: &str| matches!(tokens.get(index), Some(TokenTree::Ident(word)) if word == text);
    let after_colons = |index: usize| {
        let colons =
            [index, index + 1].iter().all(|at| tokens.get(*at).is_some_and(|token| is_punct(token, ':')));
        colons.then_some(index + 2)
    };
    let mut index = 0;
    while index < tokens.len() {
        // `mod inner { .. }` is one deeper.
        if is_word(index, "mod") && matches!(tokens.get(index + 2), Some(TokenTree::Group(_))) {
            if let TokenTree::Group(body) = &tokens[index + 2] {
                find_root_paths(body.stream(), depth + 1, named);
            }
            index += 3;
            continue;
        }
        let line = tokens[index].span().start().line;
        let mut next = None;
        if is_word(index, "crate") {
            next = after_colons(index + 1);
        } else if is_word(index, "super") {
            let (mut supers, mut at) = (0, index);
            while is_word(at, "super") {
                supers += 1;
                let Some(following) = after_colons(at + 1) else { break };
                at = following;
            }
            next = (supers >= depth && !is_word(at, "super")).then_some(at);
            index = at.max(index + 1) - 1;
        } else if let TokenTree::Group(group) = &tokens[index] {
            find_root_paths(group.stream(), depth, named);
        }
        match next.and_then(|next| tokens.get(next)) {
            Some(TokenTree::Ident(name)) => named.push((name.to_string(), line)),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let mut is_first = true;
                for token in group.stream() {
                    match token {
                        TokenTree::Ident(name) if is_first => {
                            named.push((name.to_string(), name.span().start().line));
                            is_first = false;
                        }
                        token if is_punct(&token, ',') => is_first = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        index += 1;
    }
}

/// Every set of modules that depend on each other.
fn cycles(graph: &Graph) -> Vec<Cycle> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|module| (module.as_str(), reachable(graph, module))).collect();
    let mut cycles = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (module, reaches) in &reached {
        if seen.contains(module) || !reaches.contains(module) {
            continue;
        }
        let circle: BTreeSet<&str> = reaches
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(module)))
            .copied()
            .collect();
        seen.extend(&circle);
        let steps = circle.iter().filter_map(|start| shortest_way_around(graph, start)).min_by_key(Vec::len);
        let modules = circle.into_iter().map(str::to_owned).collect();
        cycles.push(Cycle { modules, steps: steps.unwrap_or_default() });
    }
    cycles
}

/// What a module depends on, directly or not.
fn reachable<'graph>(graph: &'graph Graph, module: &str) -> BTreeSet<&'graph str> {
    let mut reached = BTreeSet::new();
    let mut left = vec![module];
    while let Some(next) = left.pop() {
        for to in graph.get(next).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to.as_str()) {
                left.push(to);
            }
        }
    }
    reached
}

/// The fewest dependencies that lead from a module back to it.
fn shortest_way_around(graph: &Graph, start: &str) -> Option<Vec<(String, String, Vec<String>)>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut left = VecDeque::from([start]);
    while let Some(from) = left.pop_front() {
        for to in graph.get(from).into_iter().flat_map(BTreeMap::keys) {
            if came_from.contains_key(to.as_str()) {
                continue;
            }
            came_from.insert(to, from);
            if to == start {
                let mut steps = Vec::new();
                let mut to = start;
                loop {
                    let from = came_from[to];
                    steps.push((from.to_owned(), to.to_owned(), graph[from][to].clone()));
                    to = from;
                    if to == start {
                        steps.reverse();
                        return Some(steps);
                    }
                }
            }
            left.push_back(to);
        }
    }
    None
}

// === impl Cycle ===

impl std::fmt::Display for Cycle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            formatter,
            "{} modules: {}; a shortest way around:",
            self.modules.len(),
            self.modules.join(", ")
        )?;
        for (from, to, lines) in &self.steps {
            writeln!(formatter, "  {from} -> {to}")?;
            for line in lines {
                writeln!(formatter, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A crate of these files under `src/`.
    fn read(files: &[(&str, &str)]) -> Crate {
        let workspace = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = workspace.path().join("small/src").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let root_file = workspace.path().join("small/src/lib.rs");
        Crate::read(workspace.path(), Path::new("small"), &root_file).unwrap()
    }

    #[test]
    fn a_cycle_is_shown_with_the_lines_that_make_it() {
        let small = read(&[
            ("lib.rs", "mod cache;\nmod pool;\nmod view;\nmod top;\npub use view::View;\n"),
            ("cache/mod.rs", "mod entry;\n"),
            ("cache/entry.rs", "use std::fmt;\n\nuse crate::{\n    pool::Pool,\n};\n"),
            ("pool.rs", "fn f() {\n    g(|| crate::View::new());\n}\n"),
            ("view.rs", "use super::cache;\n"),
            ("top.rs", "use crate::{cache::entry::{Entry, Pool}, View};\n"),
        ]);
        let error = check(&[small]).unwrap_err().to_string();
        let expected = "\
modules that depend on each other:

small: 3 modules: cache, pool, view; a shortest way around:
  cache -> pool
    small/src/cache/entry.rs:4: pool::Pool,
  pool -> view
    small/src/pool.rs:2: g(|| crate::View::new());
  view -> cache
    small/src/view.rs:1: use super::cache;
";
        assert_eq!(error, expected);
    }

    #[test]
    fn tests_and_modules_inside_one_are_free() {
        let small = read(&[
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod testing;\n"),
            ("a.rs", "mod inner;\nuse crate::b;\nuse self::inner::X;\n#[cfg(test)]\nmod tests;\n"),
            ("a/inner.rs", "use super::Y;\nuse crate::a::Z;\nmod deeper { use super::super::W; }\n"),
            ("a/tests.rs", "use crate::b;\n"),
            ("b.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::a; }\n"),
            ("testing.rs", "use crate::a;\n"),
        ]);
        check(&[small]).unwrap();
    }
}
