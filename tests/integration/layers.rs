//! The layer rule: modules import downward only, and the two flow functions stay a table of contents.

use std::path::{Path, PathBuf};

use crate::support::root;

/// Highest first.
const LAYERS: [&str; 11] = ["cli", "run", "engine", "silver", "ledger", "bronze", "store", "plan", "job", "contract", "domain"];
const MAX_FLOW_LINES: usize = 30;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_import_downward_only() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20);
    let rank = |layer: &str| LAYERS.iter().position(|name| *name == layer);
    let mut broken = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap().to_path_buf();
        let own = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let Some(own_rank) = rank(&own) else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("crate::") {
            let name: String = text[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if rank(&name).is_some_and(|other| other < own_rank) {
                broken.push(format!("{} imports {name}", relative.display()));
            }
        }
        if relative.starts_with("engine/local") {
            assert!(!text.contains("engine::spark"), "{} imports the other engine", relative.display());
        }
        if relative.starts_with("engine/spark") {
            assert!(!text.contains("engine::local"), "{} imports the other engine", relative.display());
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_flow_functions_stay_a_table_of_contents() {
    for (file, head) in [
        ("run/batch.rs", "pub async fn run_batch"),
        ("run/batch.rs", "async fn run_claimed"),
        ("run/cluster.rs", "async fn run_alone"),
        ("engine/local/mod.rs", "pub async fn stage"),
    ] {
        let text = std::fs::read_to_string(root().join("src").join(file)).unwrap();
        let body = &text[text.find(head).unwrap_or_else(|| panic!("{file} has no `{head}`"))..];
        let lines = body[..body.find("\n}\n").unwrap()].lines().count() + 1;
        assert!(lines <= MAX_FLOW_LINES, "{head} in {file} has {lines} lines");
    }
}

#[test]
fn only_the_command_line_prints_and_exits() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files.iter().filter(|file| !file.starts_with(src.join("cli")) && !file.ends_with("main.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        for word in ["println!", "eprintln!", "process::exit", "std::env::"] {
            assert!(!text.contains(word), "{} uses {word}", file.display());
        }
    }
}
