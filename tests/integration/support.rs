//! What the tests share: the binary, the generator, the Python readers, seeds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A run of `etl` in the project's folder, without what the caller's environment might say.
pub fn etl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etl"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETL_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(root()).stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

pub struct Ran {
    pub code: i32,
    pub report: Value,
    pub stderr: String,
}

pub fn ran(output: &Output) -> Ran {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("no report ({error}): {stdout}\n{stderr}"));
    Ran { code: output.status.code().unwrap_or(-1), report, stderr }
}

/// `etl run … --output json`.
pub fn run(bronze: &Path, silver: &Path, args: &[&str]) -> Ran {
    let mut command = etl(&["run", "--output", "json"]);
    command.arg("--bronze").arg(bronze).arg("--silver").arg(silver).args(args);
    ran(&command.output().unwrap())
}

/// The sum of one count over all jobs of a report.
pub fn total(report: &Value, group: &str, name: &str) -> u64 {
    report["jobs"].as_array().unwrap().iter().map(|job| job[group][name].as_u64().unwrap()).sum()
}

/// Makes bronze with the generator and returns its manifest.
pub fn generate(out: &Path, args: &[&str]) -> Value {
    let etl = PathBuf::from(env!("CARGO_BIN_EXE_etl"));
    let generator = etl.parent().unwrap().join("examples/bronze");
    assert!(generator.exists(), "{} is missing: cargo build --example bronze", generator.display());
    let manifest = out.with_extension("manifest.json");
    let output = Command::new(generator).arg("--out").arg(out).arg("--manifest").arg(&manifest).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap()
}

/// The Python environment that `tests/run` makes.
pub fn interpreter() -> String {
    std::env::var("ETL_TEST_PYTHON").unwrap_or_else(|_| {
        let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{}/.cache", std::env::var("HOME").unwrap()));
        format!("{cache}/silversmith/venv/bin/python")
    })
}

/// Runs a script of `tests/python` with it.
pub fn python(script: &str, args: &[&str]) -> Output {
    let interpreter = interpreter();
    let script = root().join("tests/python").join(script);
    Command::new(&interpreter)
        .arg(script)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{interpreter}: {error}; `bash tests/run` makes the Python environment"))
}

/// Asserts that silver folders hold the same rows, technical columns that may differ aside, by DuckDB.
pub fn assert_same(folders: &[&Path]) {
    compare(&[], folders);
}

/// The same for runs side by side, where which of several equal records survives is left to chance.
pub fn assert_same_contract(folders: &[&Path]) {
    compare(&["--contract"], folders);
}

fn compare(flags: &[&str], folders: &[&Path]) {
    let folders: Vec<&str> = folders.iter().map(|folder| folder.to_str().unwrap()).collect();
    let output = python("same.py", &[flags, &folders].concat());
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// A small deterministic generator of random numbers; the seed is printed and `ETL_TEST_SEED` repeats it.
pub struct Random(u64);

impl Random {
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("ETL_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64);
        eprintln!("{test}: ETL_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// The jobs of the project with lines appended to each.
pub fn jobs_with(folder: &Path, extra: &str) -> PathBuf {
    let jobs = folder.join("jobs");
    std::fs::create_dir_all(&jobs).unwrap();
    for entry in std::fs::read_dir(root().join("jobs")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(jobs.join(path.file_name().unwrap()), format!("{text}\n{extra}\n")).unwrap();
    }
    jobs
}
