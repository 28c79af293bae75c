//! The product crates' source as tokens, without what only tests compile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::workspace::{packages, root};

/// One crate root (a library or a program) with its modules.
pub struct Crate {
    /// The folder of its package, relative to the workspace: `dlx`, `plugins/process`.
    pub folder: PathBuf,
    /// The root file first; each module's file after the one that declares it.
    pub files: Vec<SourceFile>,
}

/// One file.
pub struct SourceFile {
    /// Where it lies, relative to the workspace.
    pub path: PathBuf,
    /// The module it is: empty for the root, `["a", "b"]` for `crate::a::b`.
    pub module: Vec<String>,
    /// What it says, without `#[cfg(test)]` items.
    pub tokens: TokenStream,
    /// Its lines, to be shown.
    lines: Vec<String>,
}

/// The product's crates: every workspace member but tests, examples and xtask.
///
/// # Errors
///
/// cargo's, the file system's, and a file that is not Rust.
pub fn product_crates() -> Result<Vec<Crate>> {
    let mut crates = Vec::new();
    for package in packages()? {
        let folder = package.folder.strip_prefix(root()).unwrap_or(&package.folder).to_owned();
        let is_product =
            !folder.iter().any(|part| ["tests", "examples", "xtask"].iter().any(|name| part == *name));
        if is_product {
            for file in package.roots {
                crates.push(Crate::read(root(), &folder, &file)?);
            }
        }
    }
    crates.sort_by(|one, other| one.files[0].path.cmp(&other.files[0].path));
    Ok(crates)
}

/// The names that a `use` brings in, each with its path: `a::{b, c as d}` is `b = a::b, d = a::c`. A glob's name is `*`.
pub fn use_names(tree: impl IntoIterator<Item = TokenTree>) -> BTreeMap<String, Vec<String>> {
    fn descend(
        tokens: &mut Peekable<impl Iterator<Item = TokenTree>>,
        before: &[String],
        names: &mut BTreeMap<String, Vec<String>>,
    ) {
        let mut path = before.to_vec();
        let mut renamed = None;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    renamed = tokens.next().map(|name| name.to_string());
                }
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == '*' => path.push("*".to_owned()),
                TokenTree::Punct(mark) if mark.as_char() == ',' => break,
                TokenTree::Group(group) => {
                    let mut inner = group.stream().into_iter().peekable();
                    while inner.peek().is_some() {
                        descend(&mut inner, &path, names);
                    }
                    path.clear();
                }
                _ => {}
            }
        }
        if let Some(last) = path.last() {
            names.insert(renamed.unwrap_or_else(|| last.clone()), path);
        }
    }
    let mut names = BTreeMap::new();
    descend(&mut tree.into_iter().peekable(), &[], &mut names);
    names
}

/// The tokens without each item, field or statement that is `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> TokenStream {
    const ITEMS: [&str; 13] = [
        "fn", "use", "mod", "impl", "struct", "enum", "union", "const", "static", "type", "trait", "async",
        "unsafe",
    ];
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_test = is_punct(&token, '#')
            && matches!(tokens.peek(), Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)");
        if is_test {
            tokens.next();
            let mut is_item = false;
            while let Some(token) = tokens.next() {
                match &token {
                    TokenTree::Ident(word) => is_item |= ITEMS.iter().any(|item| word == item),
                    TokenTree::Punct(mark) if mark.as_char() == ';' => break,
                    TokenTree::Punct(mark) if mark.as_char() == ',' && !is_item => break,
                    // A `use`'s braces are followed by its semicolon.
                    TokenTree::Group(group) if is_item && group.delimiter() == Delimiter::Brace => {
                        tokens.next_if(|next| is_punct(next, ';'));
                        break;
                    }
                    _ => {}
                }
            }
            continue;
        }
        kept.push(match token {
            TokenTree::Group(group) => {
                let mut cleared = Group::new(group.delimiter(), without_tests(group.stream()));
                cleared.set_span(group.span());
                TokenTree::Group(cleared)
            }
            other => other,
        });
    }
    kept.into_iter().collect()
}

/// Whether a token is this one punctuation mark.
pub fn is_punct(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

// === impl Crate ===

impl Crate {
    /// Reads a crate from its root file, module after module as they are declared.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is not Rust, or declares a module that has no file.
    pub fn read(workspace: &Path, folder: &Path, root_file: &Path) -> Result<Self> {
        let mut read = Self { folder: folder.to_owned(), files: Vec::new() };
        let modules = root_file.parent().unwrap_or(root_file);
        read.add(workspace, root_file, modules, &[])?;
        Ok(read)
    }

    /// The modules right under the root.
    pub fn top_modules(&self) -> BTreeSet<&str> {
        self.files.iter().filter_map(|file| file.module.first()).map(String::as_str).collect()
    }

    fn add(&mut self, workspace: &Path, path: &Path, modules: &Path, module: &[String]) -> Result<()> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("reading {}", path.display()))?;
        let tokens = without_tests(tokens);
        self.files.push(SourceFile {
            path: path.strip_prefix(workspace).unwrap_or(path).to_owned(),
            module: module.to_vec(),
            tokens: tokens.clone(),
            lines: text.lines().map(str::to_owned).collect(),
        });
        self.add_declared(workspace, path, modules, module, tokens)
    }

    fn add_declared(
        &mut self,
        workspace: &Path,
        declaring: &Path,
        modules: &Path,
        module: &[String],
        tokens: TokenStream,
    ) -> Result<()> {
        let mut tokens = tokens.into_iter().peekable();
        let mut elsewhere = None;
        while let Some(token) = tokens.next() {
            match token {
                // #[path = "../other.rs"]
                TokenTree::Group(attribute) if attribute.delimiter() == Delimiter::Bracket => {
                    let text = attribute.stream().to_string();
                    if let Some(path) = text.strip_prefix("path = ") {
                        elsewhere = Some(path.trim_matches('"').to_owned());
                    }
                }
                TokenTree::Ident(word) if word == "mod" => {
                    let Some(TokenTree::Ident(name)) = tokens.next() else { continue };
                    let name = name.to_string();
                    let inner = [module, std::slice::from_ref(&name)].concat();
                    let folder = modules.join(&name);
                    match tokens.next() {
                        Some(TokenTree::Group(body)) => {
                            self.add_declared(workspace, declaring, &folder, &inner, body.stream())?;
                        }
                        _ => {
                            let beside = declaring.parent().unwrap_or(declaring);
                            let file = match elsewhere.take() {
                                // Without `..`: a file that two crates share has one path.
                                Some(path) => fs::canonicalize(beside.join(path))?,
                                None => Some(folder.with_extension("rs"))
                                    .filter(|file| file.is_file())
                                    .unwrap_or_else(|| folder.join("mod.rs")),
                            };
                            self.add(workspace, &file, &folder, &inner)?;
                        }
                    }
                }
                TokenTree::Punct(mark) if mark.as_char() == ';' => elsewhere = None,
                _ => {}
            }
        }
        Ok(())
    }
}

// === impl SourceFile ===

impl SourceFile {
    /// `path:line: the line's text`.
    pub fn show(&self, line: usize) -> String {
        let text = line.checked_sub(1).and_then(|index| self.lines.get(index)).map_or("", |text| text.trim());
        format!("{}:{line}: {text}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_only_tests_compile() {
        let source = "
            #[cfg(test)] use a::{b, c};
            use kept::one;
            #[cfg(test)] mod tests;
            #[cfg(test)] #[allow(dead_code)] pub(crate) fn f<A, B>() -> A { body }
            struct S { #[cfg(test)] t: u8, kept_two: u8 }
            #[cfg(test)] const A: u8 = 1; fn kept_three() { #[cfg(test)] let a = 1; kept_four }
            #[cfg(test)] mod more { fn gone() {} }
            #[cfg(not(test))] mod kept_five {}
        ";
        let expected = "
            use kept::one;
            struct S { kept_two: u8 }
            fn kept_three() { kept_four }
            #[cfg(not(test))] mod kept_five {}
        ";
        let expected: TokenStream = expected.parse().unwrap();
        assert_eq!(without_tests(source.parse().unwrap()).to_string(), expected.to_string());
    }

    #[test]
    fn a_use_brings_in_its_leaves() {
        let tree: TokenStream = "a::{self, b, c::{d as e, f}, g::*}".parse().unwrap();
        let names = use_names(tree);
        let shown: Vec<_> = names.iter().map(|(name, path)| format!("{name}={}", path.join("::"))).collect();
        assert_eq!(shown, ["*=a::g::*", "a=a", "b=a::b", "e=a::c::d", "f=a::c::f"]);
    }
}
