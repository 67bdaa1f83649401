//! Three runs of one source step by step: a scheduler lets one store operation of one run pass at a time, in random order, and
//! sometimes kills a run between two of them. However they interleave, one sound run later the table is what the model says.
//!
//! The model: of each key the first record by order (append) or the last (upsert); every object known once; intents numbered
//! without gaps, each in its tables. The seed is printed; operations of different runs never overlap, so that it says nearly
//! everything (timers of leases and pauses aside).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::memory::InMemory;
use object_store::{Error, Result};
use tokio::sync::oneshot;

use crate::matrix::{check_txns, intents};
use crate::stores::Hooked;
use crate::support::Random;
use crate::world::{World, texts};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {"id": {"type": "string"}, "value": {"type": "integer"}}
}"#;
const RUNS: usize = 3;
/// A run that asks for nothing for this long is computing or pausing; the others go on.
const QUIET: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Steps {
    waiting: Vec<(usize, oneshot::Sender<bool>)>,
    live: [bool; RUNS],
    dead: [bool; RUNS],
    arrivals: u64,
}

/// Passes when the scheduler says so; fails where the run was killed.
async fn step(steps: Arc<Mutex<Steps>>, run: usize) -> Result<()> {
    let died = || Error::Generic { store: "Hooked", source: "the run was killed".into() };
    let turn = {
        let mut steps = steps.lock().unwrap();
        if steps.dead[run] {
            return Err(died());
        }
        let (sender, turn) = oneshot::channel();
        steps.arrivals += 1;
        steps.waiting.push((run, sender));
        turn
    };
    if turn.await.unwrap_or(false) { Ok(()) } else { Err(died()) }
}

/// Lets operations pass, one at a time, until all runs have ended. Returns how many there were and how many runs were killed.
async fn schedule(steps: &Mutex<Steps>, random: &mut Random, deadly: bool) -> (u64, u32) {
    let (mut passed, mut killed) = (0, 0);
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::task::yield_now().await;
        let mut steps = steps.lock().unwrap();
        if steps.live.iter().all(|live| !live) {
            return (passed, killed);
        }
        if steps.arrivals != seen {
            (seen, since) = (steps.arrivals, Instant::now());
        }
        let all_wait = (0..RUNS).all(|run| !steps.live[run] || steps.waiting.iter().any(|(waiting, _)| *waiting == run));
        if steps.waiting.is_empty() || !(all_wait || since.elapsed() > QUIET) {
            continue;
        }
        let at = random.below(steps.waiting.len());
        let (run, turn) = steps.waiting.swap_remove(at);
        if deadly && random.chance(120) {
            steps.dead[run] = true;
            killed += 1;
        }
        let alive = !steps.dead[run];
        passed += u64::from(alive);
        let _ = turn.send(alive);
        if !alive {
            // What else it has under way dies with it.
            let (gone, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut steps.waiting).into_iter().partition(|(waiting, _)| *waiting == run);
            steps.waiting = rest;
            drop(gone);
        }
    }
}

async fn interleave(world: &World, random: &mut Random, deadly: bool) -> (u64, u32) {
    let steps = Arc::new(Mutex::new(Steps { live: [true; RUNS], ..Steps::default() }));
    let runs: Vec<_> = (0..RUNS)
        .map(|run| {
            let turns = steps.clone();
            let in_turn = Hooked::in_turn(world.silver.clone(), move || Box::pin(step(turns.clone(), run)));
            let (stepped, steps) = (world.with_silver(Arc::new(in_turn)), steps.clone());
            tokio::spawn(async move {
                let report = stepped.run().await;
                steps.lock().unwrap().live[run] = false;
                report
            })
        })
        .collect();
    let ended = schedule(&steps, random, deadly).await;
    let dead = steps.lock().unwrap().dead;
    for (number, run) in runs.into_iter().enumerate() {
        let report = run.await.unwrap();
        assert!(dead[number] || [0, 4].contains(&report.exit), "{report:?}");
    }
    ended
}

/// Objects in their order; each with a few records of few keys.
fn objects(random: &mut Random, mode: &str) -> Vec<(String, Vec<(usize, usize)>)> {
    let object = |number: usize, random: &mut Random| {
        let value = |random: &mut Random| if mode == "append" { 0 } else { random.below(3) };
        let records = (0..=random.below(3)).map(|_| (random.below(4), value(random))).collect();
        (format!("year=2024/month=03/day=01/o{number}"), records)
    };
    (0..random.below(4) + 2).map(|number| object(number, random)).collect()
}

#[test]
fn however_three_runs_interleave_the_table_is_what_the_model_says() {
    let mut random = Random::new("interleavings");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rounds = if std::env::var("ETL_SOAK").is_ok() { 20_000 } else { 1000 };
    let (mut operations, mut kills) = (0, 0);
    for mode in ["append", "upsert"] {
        let folder = tempfile::tempdir().unwrap();
        // A lease that may run out under its owner: then another run takes over while it goes on.
        let job = format!("mode: {mode}\nkey: [id]\nlease: {{duration: 20 ms, commit_deadline: 20 s}}");
        let world = World::new(folder.path(), "Thing", &job, SCHEMA);
        let empty = Arc::new(InMemory::new());
        runtime.block_on(async { assert_eq!(world.with_silver(empty.clone()).run().await.exit, 0) });
        for round in 0..rounds / 2 {
            let objects = objects(&mut random, mode);
            let mut model: BTreeMap<usize, usize> = BTreeMap::new();
            for (key, value) in objects.iter().flat_map(|(_, records)| records) {
                model.insert(*key, *value);
            }
            let deadly = random.chance(2);
            runtime.block_on(async {
                let mut world = world.with_silver(Arc::new(empty.fork()));
                world.bronze = Arc::new(InMemory::new());
                world.batch_objects = Some(random.below(2) + 1);
                for (name, records) in &objects {
                    let lines: Vec<String> =
                        records.iter().map(|(key, value)| format!("{{\"id\":\"k{key}\",\"value\":{value}}}")).collect();
                    world.put(name, &lines.join("\n")).await;
                }
                let (passed, killed) = interleave(&world, &mut random, deadly).await;
                operations += passed;
                kills += killed;
                tokio::time::sleep(Duration::from_millis(if killed > 0 { 25 } else { 0 })).await;
                let rest = world.run().await;
                assert!([0, 4].contains(&rest.exit), "{rest:?}");
                if rest.exit == 4 {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    assert_eq!(world.run().await.exit, 0);
                }
                let found = world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap();
                let expected: Vec<String> = model.iter().map(|(key, value)| format!("k{key}|{value}")).collect();
                assert_eq!(texts(&found, &[]), expected, "{mode} round {round}: {objects:?}");
                let ledger = world.ledger().await;
                assert_eq!((ledger.known_objects(), ledger.open_claims().count()), (objects.len(), 0), "{mode} round {round}");
                assert!(world.settled().await);
                check_txns(&world, "Thing", &intents(&world).await).await;
            });
        }
    }
    eprintln!("{rounds} interleavings of {RUNS} runs, {operations} operations in turn, {kills} runs killed");
    assert!(kills > 100);
}
