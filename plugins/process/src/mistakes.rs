//! What can only be a mistake in a configuration that can be used: a program that is not on this host, words for a shell where
//! none runs the command.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use scaler_types::scaling_options::key_name;
use serde_yaml::Spanned;

use crate::config::Spec;

/// Programs that read what the others are passed unchanged.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "busybox"];
/// What only a shell understands.
const OPERATORS: [&str; 9] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"];
/// Where a program without a slash is looked for if PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The warnings, one line each: `file:line:column: resource: key: what is wrong: what to do`.
pub fn find<'a>(file: &str, specs: impl Iterator<Item = &'a Spec>) -> Vec<String> {
    // Many resources may have one program.
    let mut known = HashMap::new();
    let mut warnings = Vec::new();
    for spec in specs {
        if let Some(mistake) = spec.scaling_options().mistake(key_name) {
            let (line, column) = spec.place;
            warnings.push(format!("{file}:{line}:{column}: resource {:?}: {mistake}", spec.name));
        }
        let mut warn = |key: &str, at: &serde_yaml::Location, problem: &str| {
            warnings.push(format!(
                "{file}:{}:{}: resource {:?}: {key}: {problem}",
                at.line(),
                at.column(),
                spec.name
            ));
        };
        if let Some(directory) = &spec.working_directory
            && !directory.value.starts_with("~")
            && !directory.value.is_dir()
        {
            let problem =
                format!("there is no folder {}: make it, or correct the path", directory.value.display());
            warn("workingDirectory", &directory.referenced, &problem);
        }
        let [program, arguments @ ..] = &spec.command[..] else { continue };
        let path = spec.env.get("PATH").map(OsString::from);
        let directory = spec.working_directory.as_ref().map(|directory| directory.value.clone());
        let wanted = (program.value.clone(), path, directory);
        let problem = known.entry(wanted).or_insert_with_key(|(program, path, directory)| {
            program_problem(program, path.clone(), directory.as_deref())
        });
        if let Some(problem) = problem {
            warn("command", &program.referenced, problem);
        }
        let name = Path::new(&program.value).file_name().unwrap_or_default();
        if !SHELLS.iter().any(|shell| name == *shell) {
            for Spanned { value: word, referenced, .. } in arguments {
                if let Some(problem) = shell_problem(word) {
                    warn("command", referenced, &problem);
                }
            }
        }
    }
    warnings
}

/// Why this program cannot be started.
fn program_problem(program: &str, path: Option<OsString>, directory: Option<&Path>) -> Option<String> {
    // Reported by `autoscaler check` itself.
    if program.starts_with("~/") {
        return None;
    }
    let problem = if program.contains('/') {
        // A path is one of the folder in which the command is started.
        let path = program.strip_prefix("./").unwrap_or(program);
        let file = directory.map_or_else(|| PathBuf::from(program), |directory| directory.join(path));
        let Ok(found) = fs::metadata(&file) else {
            return Some(missing(program, &format!("there is no program {}", file.display())));
        };
        if found.is_dir() {
            format!("{} is a folder: name the program in it", file.display())
        } else if found.permissions().mode() & 0o111 == 0 {
            format!("{} is not executable: chmod +x {0}, or name its interpreter first", file.display())
        } else {
            return None;
        }
    } else {
        let path = path.or_else(|| env::var_os("PATH")).unwrap_or_else(|| DEFAULT_PATH.into());
        let executable = |file: PathBuf| {
            fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        if env::split_paths(&path).any(|folder| executable(folder.join(program))) {
            return None;
        }
        missing(program, &format!("there is no program {program:?} on the PATH of this host"))
    };
    Some(problem)
}

fn missing(program: &str, problem: &str) -> String {
    match program.split_whitespace().collect::<Vec<_>>()[..] {
        [first, .., last] => format!(
            "{problem}: write the program and each argument as an item of its own, as in [{first}, .., {last}]"
        ),
        _ => format!("{problem}: install it, or correct its name"),
    }
}

/// What is wrong with an argument that only a shell would replace.
fn shell_problem(word: &str) -> Option<String> {
    if OPERATORS.contains(&word) {
        return Some(format!(
            "{word:?} is passed to the program, no shell reads it: write [sh, -c, \"the whole line\"]"
        ));
    }
    let value = word.split_once('=').map_or(word, |(_, value)| value);
    let name = value.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let is_variable = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_variable.then(|| {
        format!("{word:?} is passed as it is, no shell replaces ${name}: write its value, or [sh, -c, \"exec the whole line\"]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        for (word, is_mistake) in [
            ("$PORT", true),
            ("${PORT}", true),
            ("--port=$PORT", true),
            ("&&", true),
            ("$1", false),
            ("$", false),
            ("^a$", false),
            ("cost: $5", false),
            ("$lower", false),
            ("a&&b", false),
            ("-", false),
        ] {
            assert_eq!(shell_problem(word).is_some(), is_mistake, "{word}");
        }
    }

    #[test]
    fn a_program_is_looked_for_as_it_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let problem = |program: &str| program_problem(program, None, Some(folder.path()));
        assert!(problem("./server").unwrap().contains("is not executable"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(problem("./server"), None);
        assert_eq!(problem("sh"), None);
        assert!(problem("server").unwrap().contains("on the PATH"));
        assert_eq!(program_problem("server", Some(folder.path().into()), None), None);
        assert!(problem("/").unwrap().contains("is a folder"));
        assert!(problem("sh -c true").unwrap().contains("[sh, .., true]"));
    }
}
