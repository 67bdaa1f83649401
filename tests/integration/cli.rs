//! What users see: help, errors and exit codes, by snapshots.

use std::path::Path;

use crate::support::{etl, root, run};

/// Texts without what differs from machine to machine and run to run.
fn settings(folder: &Path) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/integration/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(&regex::escape(folder.to_str().unwrap()), "[tmp]");
    settings.add_filter(&regex::escape(root().to_str().unwrap()), "[project]");
    settings.add_filter(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[run]");
    settings.add_filter(r"\d+\.\d+\n", "[seconds]\n");
    settings.add_filter(r#""seconds": [0-9.e-]+"#, r#""seconds": 0"#);
    settings.add_filter(r#""written": \d+"#, r#""written": 0"#);
    settings.add_filter(r"[ \t]+\n", "\n");
    settings
}

fn shown(args: &[&str]) -> String {
    let output = etl(args).output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    format!("exit {code}\n--- stdout\n{}--- stderr\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn help_says_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    settings(folder.path()).bind(|| {
        insta::assert_snapshot!("help", shown(&["--help"]));
        insta::assert_snapshot!("help_run", shown(&["run", "--help"]));
    });
}

#[test]
fn the_first_run_and_the_second() {
    let folder = tempfile::tempdir().unwrap();
    let silver = folder.path().join("silver");
    let args = ["run", "--entity", "FaultData", "--country", "de", "--silver", silver.to_str().unwrap()];
    settings(folder.path()).bind(|| {
        insta::assert_snapshot!("first_run", shown(&args));
        insta::assert_snapshot!("second_run", shown(&args));
        let status = ["status", "--entity", "FaultData", "--country", "de", "--silver", silver.to_str().unwrap(), "--output", "json"];
        let output = etl(&status).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((json["jobs"][0]["settled"].as_bool(), json["jobs"][0]["open_claims"].as_array().map(Vec::len)), (Some(true), Some(0)));
    });
}

#[test]
fn the_json_report_keeps_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(&root().join("fixtures/bronze"), &folder.path().join("silver"), &["--entity", "Trip", "--country", "fr"]);
    settings(folder.path()).bind(|| insta::assert_snapshot!("report", serde_json::to_string_pretty(&ran.report).unwrap()));
}

#[test]
fn planning_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let silver = folder.path().join("silver");
    settings(folder.path()).bind(|| {
        insta::assert_snapshot!(
            "plan",
            shown(&["plan", "--entity", "FaultData,Trip", "--country", "de,uk", "--silver", silver.to_str().unwrap()])
        );
    });
    assert!(!silver.exists());
}

#[test]
fn wrong_names_and_addresses_exit_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let silver = folder.path().join("silver");
    let silver = silver.to_str().unwrap();
    let missing = folder.path().join("nowhere");
    let show = |args: &[&str]| shown(&[&["run", "--silver", silver], args].concat());
    settings(folder.path()).bind(|| {
        insta::assert_snapshot!("unknown_entity", show(&["--entity", "Faultdata", "--country", "de"]));
        insta::assert_snapshot!("unknown_country", show(&["--entity", "FaultData", "--country", "at"]));
        insta::assert_snapshot!(
            "missing_bronze",
            show(&["--entity", "FaultData", "--country", "de", "--bronze", missing.to_str().unwrap()])
        );
        insta::assert_snapshot!("unknown_scheme", show(&["--entity", "FaultData", "--country", "de", "--bronze", "ftp://host/x"]));
        insta::assert_snapshot!("no_spark", show(&["--entity", "FaultData", "--country", "de", "--engine", "spark"]));
        insta::assert_snapshot!("bad_shard", show(&["--entity", "FaultData", "--country", "de", "--shard", "4/3"]));
    });
    for (bronze, entity) in [("fixtures/bronze", "Nope"), ("gopher://x", "FaultData")] {
        let ran = run(Path::new(bronze), Path::new(silver), &["--entity", entity, "--country", "de"]);
        assert_eq!((ran.code, ran.report["outcome"].as_str()), (2, Some("failed")), "{}", ran.report);
        assert!(ran.report["error"].is_string());
    }
}

#[test]
fn whatever_is_wrong_with_the_arguments_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let silver = folder.path().join("silver");
    let failed = |args: &[&str], said: &str| {
        let output =
            etl(&[&["run", "--output", "json", "--silver", silver.to_str().unwrap(), "--report", file.to_str().unwrap()], args].concat());
        let output = { output }.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap(), "{args:?}");
        let error = written["error"].as_str().or(written["jobs"][0]["error"].as_str()).unwrap();
        assert!(error.contains(said) && !written["run_id"].as_str().unwrap().is_empty(), "{args:?}: {written}");
        std::fs::remove_file(&file).unwrap();
    };
    failed(&[], "--entity <E> --country <C>");
    failed(&["--entity", "FaultData", "--country", "de", "--frm", "2025-01-01"], "--frm");
    failed(&["--entity", "FaultData", "--country", "de", "--from", "2025-02-01", "--to", "2025-01-31"], "2025-02-01 is later");
    failed(&["--entity", "all", "--country", "all", "--jobs", folder.path().join("nowhere").to_str().unwrap()], "nowhere");
    failed(&["--entity", "all", "--country", "all", "--jobs", folder.path().to_str().unwrap()], "no job");
    std::fs::write(folder.path().join("FaultData.yaml"), "entity: Trip\nkey: [id]\n").unwrap();
    failed(
        &["--entity", "FaultData", "--country", "de", "--jobs", folder.path().to_str().unwrap()],
        "by its name it is that of `FaultData`",
    );

    // A log of JSON has nothing else in it.
    let output =
        etl(&["run", "--entity", "Nope", "--country", "de", "--log", "json", "--silver", silver.to_str().unwrap()]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()) && log.contains("Nope"), "{log}");
}

#[test]
fn flags_come_from_the_environment_and_empty_variables_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = etl(&["run", "--output", "json", "--silver", folder.path().to_str().unwrap()]);
    command.env("ETL_ENTITY", "FaultData, Trip,").env("ETL_COUNTRY", " de").env("ETL_FROM", "").env("ETL_MEMORY", "");
    let ran = crate::support::ran(&command.output().unwrap());
    let report = &ran.report;
    let entities: Vec<&str> = report["jobs"].as_array().unwrap().iter().map(|job| job["entity"].as_str().unwrap()).collect();
    assert_eq!((entities, ran.code), (vec!["FaultData", "Trip"], 0), "{report}");
    let vacuum = |execute: &str| {
        let mut command = etl(&["vacuum", "--silver", folder.path().to_str().unwrap()]);
        command.env("ETL_ENTITY", "all").env("ETL_EXECUTE", execute);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(vacuum("true").0, Some(0));
    // Every flag of every verb has its variable.
    for verb in [
        &["run"][..],
        &["plan"],
        &["status"],
        &["lateness"],
        &["quarantine", "list"],
        &["quarantine", "show"],
        &["reprocess"],
        &["ledger", "show"],
        &["ledger", "forget"],
        &["schema", "check"],
        &["schema", "migrate"],
        &["compact"],
        &["vacuum"],
        &["register"],
        &["deploy", "ecs"],
        &["deploy", "databricks"],
        &["doctor"],
    ] {
        let help = String::from_utf8(etl(&[verb, &["--help"]].concat()).output().unwrap().stdout).unwrap();
        let flags: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("      --")?.split_whitespace().next()).collect();
        let told = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!flags.is_empty(), "{verb:?}: {help}");
        for flag in flags {
            let variable = format!("ETL_{}", flag.replace('-', "_").to_uppercase());
            assert!(told.contains(&format!("[env: {variable}=")), "{verb:?} {flag}: {told}");
        }
    }
}

#[test]
fn an_empty_prefix_is_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    std::fs::create_dir(&bronze).unwrap();
    let ran = run(&bronze, &folder.path().join("silver"), &["--entity", "FaultData", "--country", "all"]);
    assert_eq!((ran.code, ran.report["outcome"].as_str()), (0, Some("nothing_to_do")));
    assert!(folder.path().join("silver/FaultData/_delta_log").is_dir());
}

#[test]
fn mistakes_in_jobs_and_contracts_are_shown_with_a_caret() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, schemas) = (folder.path().join("jobs"), folder.path().join("schemas/E"));
    std::fs::create_dir_all(&jobs).unwrap();
    std::fs::create_dir_all(&schemas).unwrap();
    let check = |job: &str, contract: &str| {
        std::fs::write(jobs.join("E.yaml"), job).unwrap();
        std::fs::write(schemas.join("1.json"), contract).unwrap();
        let schemas = folder.path().join("schemas");
        shown(&["schema", "check", "--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()])
    };
    let good_job = "entity: E\nkey: [id]\n";
    let good = "{\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"string\"}}}\n";
    settings(folder.path()).bind(|| {
        insta::assert_snapshot!("mistake_unknown_setting", check("entity: E\nkey: [id]\nlimits:\n  recrod: 1 MiB\n", good));
        insta::assert_snapshot!("mistake_size", check("entity: E\nkey: [id]\nlimits:\n  record: 1 parsec\n", good));
        insta::assert_snapshot!("mistake_key", check("entity: E\nkey: [identity]\n", good));
        insta::assert_snapshot!(
            "mistake_json",
            check(good_job, "{\"type\": \"object\",\n \"properties\": {\"id\": {\"type\": \"string\"},}}\n")
        );
        insta::assert_snapshot!(
            "mistake_type",
            check(good_job, "{\"type\": \"object\",\n \"properties\": {\"id\": {\"type\": \"text\"}}}\n")
        );
        insta::assert_snapshot!(
            "mistake_ref",
            check(good_job, "{\"type\": \"object\",\n \"properties\": {\"id\": {\"$ref\": \"#/$defs/nothing\"}}}\n")
        );
    });
    let breaking = "{\"title\": \"E\", \"type\": \"object\", \"properties\": {\"id\": {\"type\": \"integer\"}}}\n";
    std::fs::write(schemas.join("2.json"), breaking).unwrap();
    settings(folder.path()).bind(|| insta::assert_snapshot!("mistake_breaking", check(good_job, good)));
}

#[test]
fn quarantine_shows_the_exact_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let silver = folder.path().join("silver");
    let case = root().join("fixtures/cases/FaultData/invalid_utf8");
    assert_eq!(run(&case.join("bronze"), &silver, &["--entity", "FaultData", "--country", "de"]).code, 0);
    let list = etl(&["quarantine", "list", "--entity", "FaultData", "--country", "de", "--output", "json", "--silver"])
        .arg(&silver)
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let row = &rows[0];
    let offset = row["source_offset"].to_string();
    let shown = etl(&[
        "quarantine",
        "show",
        "--entity",
        "FaultData",
        "--raw",
        "--file",
        row["source_file"].as_str().unwrap(),
        "--offset",
        &offset,
        "--silver",
    ])
    .arg(&silver)
    .output()
    .unwrap();
    let object = std::fs::read(case.join("bronze").join(row["source_file"].as_str().unwrap())).unwrap();
    let (from, length) = (row["source_offset"].as_u64().unwrap() as usize, row["source_length"].as_u64().unwrap() as usize);
    assert_eq!(shown.stdout, object[from..from + length]);
    assert!(std::str::from_utf8(&shown.stdout).is_err());
}

#[test]
fn completions_are_for_the_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = etl(&["completions", shell]).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("quarantine"), "{shell}");
    }
}
