//! S3 for real: servers on loopback, a proxy that breaks what passes through it, and the same outcomes as on disk.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::{ObjectStore, integration as suite};
use serde_json::Value;
use silversmith::bronze::{Selection, list};
use silversmith::domain::Source;
use silversmith::store::{Store, StoreOptions};

use crate::buckets::{Bucket, Ceph, KEY, Server, block_on, client, moto, text, without_aws};
use crate::cases::check_all_in;
use crate::faults::assert_intents_without_gaps;
use crate::http::proxy::{Fault, FaultProxy, Rule};
use crate::http::s3::{Options, S3Server};
use crate::support::{Ran, Random, assert_same, assert_same_contract, generate, jobs_with, ran, root, run, total};

#[test]
fn every_case_ends_over_s3_as_on_disk() {
    check_all_in(&Bucket::new(moto()));
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Options that make a broken store tell so in seconds.
const IMPATIENT: &str = "retries=3,retry_time=4 s,timeout=2 s,connect_timeout=1 s";

fn anonymous(endpoint: &str) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.set("endpoint", endpoint).unwrap();
    options.set("anonymous", "true").unwrap();
    options
}

#[test]
fn object_stores_own_conformance_suite_passes_through_the_proxy_and_the_wire() {
    let bucket = Bucket::new(moto());
    let proxy = FaultProxy::start(address(moto()));
    let signed = client(&proxy.url(), &bucket.name);
    block_on(conforms(&signed));
    // moto lets nobody in without a signature; the wire does not sign.
    let server = S3Server::start(Options::default()).unwrap();
    server.create_bucket("wire");
    let proxy = FaultProxy::start(server.address());
    block_on(async {
        let opened = Store::open("s3://wire", &anonymous(&proxy.url())).await.unwrap();
        conforms(opened.root().as_ref()).await;
        // Not over moto, which writes names of metadata with - for _.
        suite::put_get_attributes(opened.root().as_ref()).await;
        let (seen, counted) = (server.stats(), opened.requests());
        assert_eq!((seen.list, seen.get, seen.head), (counted.list, counted.get, counted.head), "{seen:?} {counted:?}");
    });
}

async fn conforms(store: &dyn ObjectStore) {
    suite::stream_get(store).await;
    suite::put_get_delete_list(store).await;
    suite::get_opts(store).await;
    suite::put_opts(store, true).await;
    suite::list_uses_directories_correctly(store).await;
    suite::list_with_delimiter(store).await;
    suite::list_with_offset_exclusivity(store).await;
    suite::rename_and_copy(store).await;
    suite::multipart_race_condition(store, true).await;
    suite::multipart_out_of_order(store).await;
}

#[test]
fn a_request_that_nobody_looks_at_keeps_nobody_waiting() {
    let server = S3Server::start(Options::default()).unwrap();
    server.create_bucket("b");
    server.put("b", "a", "1");
    block_on(async {
        let mut options = anonymous(&server.url());
        options.set("requests", "1").unwrap();
        let store = Store::open("s3://b", &options).await.unwrap();
        let mut forgotten = Vec::new();
        while forgotten.len() < 3 {
            let mut request = Box::pin(store.get("a"));
            // On a busy machine the answer can be there before the first look; such a one is none that nobody looks at.
            if futures::poll!(request.as_mut()).is_pending() {
                forgotten.push(request);
            }
        }
        let answer = tokio::time::timeout(Duration::from_mins(1), store.get("a")).await;
        assert!(answer.expect("an answer").unwrap().is_some());
    });
}

#[test]
fn a_storm_over_ceph_loses_and_doubles_nothing() {
    let Some(ceph) = Ceph::start() else { return };
    storm(&ceph.url, "storm over ceph");
}

#[test]
fn encryption_payers_roles_and_authorities_are_what_a_server_demands() {
    let Some(ceph) = Ceph::start() else { return };
    let bucket = Bucket::new(&ceph.url);
    bucket.upload_small();
    // Who writes below silver/LogRecord must name an encryption; the guest may read bronze, and pays for it.
    let deny = r#"{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::BUCKET/kms/LogRecord/*",
        "Condition": {"Null": {"s3:x-amz-server-side-encryption": "true"}}}"#;
    let allow = r#"{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam:::user/guest"}, "Action": ["s3:ListBucket", "s3:GetObject"],
        "Resource": ["arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/bronze/*"]}"#;
    let policy = format!(r#"{{"Version": "2012-10-17", "Statement": [{deny}, {allow}]}}"#).replace("BUCKET", &bucket.name);
    bucket.set("policy", &[&policy]);
    let run = |endpoint: &str, key: &str, silver: &str, options: &[&str]| {
        let mut command = bucket.run_command(endpoint, silver, &[&SMALL[..], options].concat());
        command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", key).env("AWS_ENDPOINT_URL_STS", &ceph.url);
        let ran = ran(&command.output().unwrap());
        (ran.code, format!("{}{}", ran.stderr, ran.report["error"]), total(&ran.report, "records", "inserted"))
    };
    let refused = |(code, told, _): (i32, String, u64), words: &[&str]| {
        assert_eq!(code, 2, "{told}");
        assert!(words.iter().all(|word| told.contains(word)), "{words:?}: {told}");
    };
    let passed = |(code, told, inserted): (i32, String, u64)| assert_eq!((code, inserted), (0, 3), "{told}");

    refused(run(&ceph.url, KEY, "kms", &[]), &["AccessDenied", "s3:PutObject"]);
    refused(run(&ceph.url, KEY, "kms", &["--silver-options", "sse=kms,kms_key=lost"]), &["kms:GenerateDataKey"]);
    passed(run(&ceph.url, KEY, "kms", &["--silver-options", "sse=kms,kms_key=key-1"]));
    let written = bucket.set("encryption", &["kms/LogRecord/"]);
    assert!(written.lines().count() >= 3 && written.lines().all(|line| line.ends_with(" aws:kms key-1")), "{written}");

    // Bronze belongs to another account, silver to oneself.
    let (guests, own) = (["--bronze-options", "profile=guest"], ["--silver-options", "profile=owner"]);
    let folder = tempfile::tempdir().unwrap();
    let profiles = folder.path().join("credentials");
    let sections = [("guest", "guest"), ("owner", KEY)]
        .map(|(name, key)| format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {key}\n"));
    std::fs::write(&profiles, sections.concat()).unwrap();
    let as_guest = |silver: &str, bronze: &str| {
        let mut command = bucket.run_command(&ceph.url, silver, &SMALL);
        command.env("AWS_SHARED_CREDENTIALS_FILE", &profiles).env("AWS_ENDPOINT_URL_STS", &ceph.url);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.args([guests[0], &format!("{}{bronze}", guests[1])]).args(own);
        let ran = ran(&command.output().unwrap());
        (ran.code, format!("{}{}", ran.stderr, ran.report["error"]), total(&ran.report, "records", "inserted"))
    };
    passed(as_guest("guest", ""));
    bucket.set("payer", &[]);
    refused(as_guest("pays", ""), &["AccessDenied"]);
    passed(as_guest("pays", ",requester_pays=true"));
    // A role that may all, even without the bucket's policy.
    bucket.set("policy", &[&format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, deny.replace("BUCKET", &bucket.name))]);
    refused(as_guest("role", ",requester_pays=true"), &["AccessDenied"]);
    passed(as_guest("role", ",requester_pays=true,role=arn:aws:iam:::role/reader"));

    refused(run(&ceph.secure, KEY, "secure", &[]), &["UntrustedCertificate", "ca_bundle="]);
    let authority = format!("ca_bundle={}", ceph.authority().display());
    passed(run(&ceph.secure, KEY, "secure", &["--bronze-options", &authority, "--silver-options", &authority]));
}

// --- outcomes -------------------------------------------------------------------------------------------------------------------

/// Bronze of the generator in a bucket, and what a run on disk makes of it.
struct World {
    folder: tempfile::TempDir,
    bucket: Bucket,
    alone: PathBuf,
    args: Vec<String>,
}

impl World {
    fn new(server: &str, records: &str, countries: &str, entity: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (bronze, alone) = (folder.path().join("bronze"), folder.path().join("alone"));
        let jobs = jobs_with(folder.path(), "lease: {duration: 2 s}");
        let made = ["--entities", entity, "--countries", countries, "--records", records, "--mess", "0.01", "--duplicates", "0.05"];
        generate(&bronze, &[&made[..], &["--object-bytes", "8KiB", "--seed", "31"]].concat());
        let args = ["--entity", entity, "--country", countries, "--jobs", jobs.to_str().unwrap()].map(str::to_owned).to_vec();
        let bucket = Bucket::new(server);
        bucket.upload(&bronze, "bronze");
        let world = Self { folder, bucket, alone, args };
        assert_eq!(run(&bronze, &world.alone, &world.args()).code, 0);
        world
    }

    fn args(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// A run by way of another endpoint, impatient.
    fn through(&self, endpoint: &str, silver: &str, more: &[&str]) -> Ran {
        let args = [&self.args()[..], &["--bronze-options", IMPATIENT, "--silver-options", IMPATIENT], more].concat();
        ran(&self.bucket.run_command(endpoint, silver, &args).output().unwrap())
    }

    fn downloaded(&self, silver: &str) -> PathBuf {
        let to = self.folder.path().join("downloaded").join(silver);
        self.bucket.download(silver, &to);
        to
    }

    /// A run without faults ends the work, and silver is what a run on disk made of it.
    fn assert_ends_well(&self, silver: &str) {
        let last = self.bucket.run(silver, &self.args());
        assert_eq!(last.code, 0, "{}\n{}", last.report, last.stderr);
        assert_same(&[&self.alone, &self.downloaded(silver)]);
    }
}

type When = fn(&str, &str) -> bool;

/// What goes wrong, the exit code, and words that the message has.
#[test]
fn what_a_bucket_refuses_is_told_with_its_remedy_and_leaves_nothing_half_done() {
    let world = World::new(moto(), "400", "de", "FaultData");
    let bronze_read = |method: &str, target: &str| method == "GET" && target.contains("/bronze/database");
    let listing = |method: &str, target: &str| method == "GET" && target.contains("list-type=2") && target.contains("bronze/");
    let commit = |method: &str, target: &str| method == "PUT" && target.contains("/FaultData/_delta_log/");
    let any = |_: &str, _: &str| true;
    let cases: Vec<(&str, Rule, i32, &[&str])> = vec![
        ("expired", Rule::new(Fault::expired_token()).when(any as When), 2, &["ExpiredToken", "sign in again"]),
        ("expired-midway", Rule::new(Fault::expired_token()).when(bronze_read as When), 2, &["ExpiredToken", "sign in again"]),
        ("denied-read", Rule::new(Fault::access_denied()).when(bronze_read as When), 2, &["AccessDenied", "s3:GetObject", "etl doctor"]),
        ("denied-list", Rule::new(Fault::access_denied()).when(listing as When), 2, &["AccessDenied", "s3:ListBucket"]),
        ("denied-commit", Rule::new(Fault::access_denied()).when(commit as When), 2, &["AccessDenied", "s3:PutObject"]),
        ("no-bucket", Rule::new(Fault::no_such_bucket()).when(any as When), 2, &["NoSuchBucket"]),
        ("region", Rule::new(Fault::moved("eu-west-1")).when(any as When), 2, &["another region", "option region", "eu-west-1"]),
        ("clock", Rule::new(Fault::clock_skew()).when(any as When), 2, &["RequestTimeTooSkewed", "clock"]),
        ("slow", Rule::new(Fault::SlowDown).when(bronze_read as When), 5, &["SlowDown", "fewer requests"]),
        ("half", Rule::new(Fault::CutResponse).when(bronze_read as When), 5, &["cannot read on at", "Connection reset"]),
    ];
    for (name, rule, exit, words) in cases {
        let proxy = FaultProxy::start(address(&world.bucket.endpoint));
        proxy.add(rule);
        let failed = world.through(&proxy.url(), name, &[]);
        let told = format!("{}{}", failed.stderr, failed.report["error"]);
        assert_eq!(failed.code, exit, "{name}: {told}");
        assert_eq!(failed.report["outcome"], "failed", "{name}");
        for word in words {
            assert!(told.contains(word), "{name} does not say {word}: {told}");
        }
        assert!(!told.contains("Authorization") && !told.contains("Signature="), "{name}: {told}");
        world.assert_ends_well(name);
    }
    let nowhere = world.through("http://127.0.0.1:9", "nowhere", &[]);
    assert_eq!(nowhere.code, 5, "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("does not answer") && nowhere.stderr.contains("check the endpoint"), "{}", nowhere.stderr);
    let missing = Bucket::etl(&world.bucket.endpoint, &["run", "--output", "json", "--bronze", "s3://no-such-bucket-here/x"]);
    let missing = { missing }.args(["--silver", &world.bucket.url("missing")]).args(world.args()).output().unwrap();
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
    assert!(text(&missing).contains("NoSuchBucket"), "{}", text(&missing));
}

#[test]
fn options_that_make_no_sense_and_addresses_with_secrets_are_refused() {
    let bucket = Bucket::new(moto());
    let told = |args: &[&str]| {
        let output =
            Bucket::etl(&bucket.endpoint, &[&["run", "--entity", "FaultData", "--country", "de"], args].concat()).output().unwrap();
        (output.status.code(), text(&output))
    };
    for (args, word) in [
        (&["--silver", "s3://key:hush@bucket/x"][..], "credentials do not belong into an address"),
        (&["--silver", "s3://bucket/x", "--silver-options", "regoin=x"], "no option `regoin`; there are: region"),
        (&["--silver", "s3://bucket/x", "--silver-options", "ca_bundle=/no/such.pem"], "ca_bundle /no/such.pem"),
        (&["--silver", "s3://bucket/x", "--silver-options", "kms_key=k"], "kms_key goes with sse=kms"),
        (&["--silver", "gs://bucket/x"], "no way to `gs://`"),
        (&["--silver", "s3://bucket:hush/x"], "s3://… is no address"),
        (&["--bronze", "s3://key:hu/sh@bucket/x", "--silver", "s3://key:hush/x@bucket"], "is no address"),
    ] {
        let (code, told) = told(args);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(word) && !told.contains("hush"), "{told}");
    }
}

/// Every way in which the network and S3 lose requests and answers, at a rate that leaves some of them through.
fn everything_breaks(proxy: &FaultProxy) {
    let faults = [
        (Fault::SlowDown, 0.02),
        (Fault::SlowDownAfter, 0.02),
        (Fault::InternalErrorAfter, 0.02),
        (Fault::ResetBefore, 0.02),
        (Fault::ResetAfter, 0.02),
        (Fault::HalfBody, 0.02),
        (Fault::Hang(Duration::from_secs(3)), 0.004),
        (Fault::Delay(Duration::from_millis(300)), 0.03),
        (Fault::CutResponse, 0.02),
        (Fault::conflict(), 0.0),
        (Fault::Throttle { prefix: "silver/LogRecord/".to_owned(), per_second: 100 }, 1.0),
    ];
    for (fault, chance) in faults {
        proxy.add(Rule::new(fault).probability(chance));
    }
    // S3 says so of two creates of one key at once, and only of those.
    let ledger = |method: &str, target: &str| method == "PUT" && target.contains("/_etl/ledger/") && target.contains("/log/");
    proxy.add(Rule::new(Fault::conflict()).when(ledger).probability(0.05));
}

const KILLS: usize = 60;

/// Five countries in three shards each as processes, all faults at once, sixty of them killed; then one run without faults.
fn storm(server: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, alone) = (folder.path().join("bronze"), folder.path().join("alone"));
    let jobs = jobs_with(folder.path(), "lease: {duration: 2 s}");
    let made = ["--entities", "LogRecord,FaultData", "--countries", "all", "--records", "200", "--mess", "0.02", "--duplicates", "0.1"];
    generate(&bronze, &[&made[..], &["--object-bytes", "6KiB", "--seed", "77"]].concat());
    let entities = ["--entity", "LogRecord,FaultData", "--jobs", jobs.to_str().unwrap(), "--batch-objects", "4"];
    assert_eq!(run(&bronze, &alone, &[&entities[..], &["--country", "all"]].concat()).code, 0);

    let bucket = Bucket::new(server);
    bucket.upload(&bronze, "bronze");
    let mut random = Random::new(name);
    let proxy = FaultProxy::seeded(address(server), random.next());
    everything_breaks(&proxy);
    let options = ["--bronze-options", IMPATIENT, "--silver-options", IMPATIENT];
    let start = |country: &str, shard: usize| -> Child {
        let shard = format!("{shard}/3");
        let args = [&entities[..], &options, &["--country", country, "--shard", &shard]].concat();
        let mut command = bucket.run_command(&proxy.url(), "silver", &args);
        // To see what a run did that went wrong: a folder for all logs.
        let log = std::env::var("ETL_TEST_LOGS").ok().map(|folder| {
            command.env("ETL_LOG_LEVEL", "debug");
            std::fs::File::create(format!("{folder}/{}.log", uuid::Uuid::now_v7())).unwrap()
        });
        command.stdout(std::process::Stdio::null()).stderr(log.map_or_else(std::process::Stdio::null, Into::into)).spawn().unwrap()
    };
    let mut sources: Vec<(&str, usize)> = ["de", "fr", "it", "es", "uk"].iter().flat_map(|c| (1..=3).map(move |s| (*c, s))).collect();
    let (mut kills, mut starts, begun) = (0, 0, Instant::now());
    let mut running: Vec<Child> = Vec::new();
    while kills < KILLS {
        random.shuffle(&mut sources);
        for (country, shard) in &sources {
            running.push(start(country, *shard));
            starts += 1;
            std::thread::sleep(Duration::from_millis(random.next() % 150));
            // Some live on, some are killed young, some in the middle of their work.
            if running.len() > 4 || random.chance(3) {
                let mut victim = running.swap_remove(random.below(running.len()));
                if victim.try_wait().unwrap().is_none() {
                    victim.kill().unwrap();
                    kills += 1;
                }
                victim.wait().unwrap();
            }
        }
    }
    running.into_iter().for_each(ends);
    // One more of each with the faults, nobody killed: whatever it is told, it loses nothing, and it ends.
    for chunk in sources.chunks(3) {
        let children: Vec<Child> = chunk.iter().map(|(country, shard)| start(country, *shard)).collect();
        children.into_iter().for_each(ends);
    }
    eprintln!("{name}: {starts} processes, {kills} killed, {:.0} s, {:?}", begun.elapsed().as_secs_f64(), proxy.counts());
    std::thread::sleep(Duration::from_millis(2100));
    let last = bucket.run("silver", &[&entities[..], &["--country", "all"]].concat());
    assert_eq!(last.code, 0, "{}\n{}", last.report, last.stderr);
    let again = bucket.run("silver", &[&entities[..], &["--country", "all"]].concat());
    assert_eq!(again.report["outcome"], "nothing_to_do", "{}", again.report);
    let silver = folder.path().join("silver");
    bucket.download("silver", &silver);
    assert_same_contract(&[&alone, &silver]);
    for table in ["LogRecord", "FaultData", "LogRecord_quarantine", "FaultData_quarantine"] {
        assert_intents_without_gaps(&silver.join(table));
        assert_versions_without_gaps(&silver.join(table));
    }
}

/// A process that hangs is a defect, too.
fn ends(mut child: Child) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_mins(2) {
            eprintln!("process {} does not end", child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("a run does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn assert_versions_without_gaps(table: &Path) {
    let names = std::fs::read_dir(table.join("_delta_log")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let versions: BTreeSet<u64> = names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
    assert_eq!(versions.len() as u64, versions.last().unwrap() + 1, "{}: {versions:?}", table.display());
}

#[test]
fn a_storm_over_moto_loses_and_doubles_nothing() {
    storm(moto(), "storm over moto");
}

#[test]
fn a_listing_side_by_side_finds_what_a_flat_one_finds_and_asks_for_no_page_twice() {
    let mut random = Random::new("listing");
    for _ in 0..12 {
        let server = S3Server::start(Options { page: 2 + random.below(6), ..Options::default() }).unwrap();
        server.create_bucket("b");
        let folder = "bronze/database=fleetdb_de/entity=LogRecord";
        let mut keys = BTreeSet::new();
        for _ in 0..random.below(150) {
            let year = 2023 + random.below(3);
            keys.insert(match random.below(4) {
                0 => format!("{folder}/year={year}/backfill-{:03}.json", random.below(60)),
                1 => format!("{folder}/year={year}/month=01/late-{}.json", random.below(9)),
                _ => format!(
                    "{folder}/year={year}/month={:02}/day={:02}/o-{:03}",
                    1 + random.below(3),
                    1 + random.below(4),
                    random.below(40)
                ),
            });
        }
        server.fill("b", keys.iter().map(|key| (key.clone(), bytes::Bytes::from_static(b"{}"))));
        let proxy = FaultProxy::start(server.address());
        let source = Source { entity: "LogRecord".to_owned(), database: "fleetdb_de".to_owned() };
        let year = Selection { from: Some(19_723), to: Some(20_088), ..Selection::default() };
        for (selection, chosen) in [(Selection::default(), "/year="), (year, "/year=2024/")] {
            proxy.forget();
            let found = block_on(async {
                let bronze = Store::open("s3://b/bronze", &anonymous(&proxy.url())).await.unwrap();
                list(&bronze, &source, &selection).await.unwrap()
            });
            let found: BTreeSet<String> = found.objects.into_iter().map(|object| format!("bronze/{}", object.key)).collect();
            let expected: BTreeSet<String> = keys.iter().filter(|key| key.contains(chosen)).cloned().collect();
            assert_eq!(found, expected);
            let asked: Vec<String> = proxy.seen().into_iter().map(|seen| seen.query).collect();
            assert_eq!(asked.len(), asked.iter().collect::<BTreeSet<_>>().len(), "{asked:#?}");
        }
    }
}

/// Bronze of three objects on the quick server, and a run over it.
struct Small {
    server: S3Server,
    folder: tempfile::TempDir,
}

const SMALL: [&str; 4] = ["--entity", "LogRecord", "--country", "de"];
const SMALL_KEY: &str = "bronze/database=fleetdb_de/entity=LogRecord/year=2025/month=01/day=0";

impl Bucket {
    fn upload_small(&self) {
        for (key, record) in small_objects() {
            block_on(self.put(&key, record.into_bytes()));
        }
    }
}

fn small_objects() -> impl Iterator<Item = (String, String)> {
    (1..=3).map(|day| (format!("{SMALL_KEY}{day}/o"), small_record(&format!("b{day}"), day)))
}

impl Small {
    fn new() -> Self {
        Self::on(Options::default())
    }

    fn on(options: Options) -> Self {
        let server = S3Server::start(options).unwrap();
        server.create_bucket("b");
        for (key, record) in small_objects() {
            server.put("b", &key, record);
        }
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    fn command(endpoint: &str, args: &[&str]) -> std::process::Command {
        let mut command = crate::support::etl(&["run", "--output", "json", "--bronze", "s3://b/bronze", "--silver", "s3://b/silver"]);
        without_aws(&mut command);
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "k");
        command.env("AWS_SECRET_ACCESS_KEY", "s").args(SMALL).args(args).current_dir(root());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(&Self::command(&self.server.url(), args).output().unwrap())
    }
}

fn small_record(id: &str, speed: u32) -> String {
    format!(
        "{{\"dateTime\":\"2025-01-01T10:00:00.000Z\",\"device\":{{\"id\":\"b1\"}},\"id\":\"{id}\",\"latitude\":50.5,\"longitude\":8.5,\"speed\":{speed}}}\n"
    )
}

#[test]
fn objects_in_an_archive_class_are_counted_named_with_the_command_and_read_when_restored() {
    let small = Small::new();
    assert!(small.server.set_storage_class("b", &format!("{SMALL_KEY}2/o"), "DEEP_ARCHIVE"));
    let first = small.run(&[]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!((total(&first.report, "records", "inserted"), total(&first.report, "files", "skipped")), (2, 1));
    assert_eq!(first.report["jobs"][0]["skipped"]["objects in an archive class"], 1);
    let warning = first.report["jobs"][0]["warnings"].to_string();
    assert!(warning.contains("aws s3api restore-object --bucket b --key") && warning.contains("day=02/o"), "{warning}");
    // What the listing does not show shows when it is read: intelligent tiering.
    let proxy = FaultProxy::start(small.server.address());
    small.server.put("b", &format!("{SMALL_KEY}4/o"), small_record("b4", 4));
    let reads = |method: &str, target: &str| method == "GET" && target.ends_with("day=04/o");
    proxy.add(Rule::new(Fault::status(403, "InvalidObjectState", "The operation is not valid for the object's storage class")).when(reads));
    let second = ran(&Small::command(&proxy.url(), &[]).output().unwrap());
    assert_eq!(
        (second.code, second.report["jobs"][0]["skipped"]["objects in an archive class"].as_u64()),
        (0, Some(2)),
        "{}",
        second.report
    );
    // What is committed is none of a later run's business, wherever it lies by then.
    assert!(small.server.set_storage_class("b", &format!("{SMALL_KEY}1/o"), "GLACIER"));
    small.server.put("b", "bronze/database=fleetdb_de/entity=LogRecord/year=2025/month=02/", "");
    assert!(small.server.set_storage_class("b", &format!("{SMALL_KEY}2/o"), "STANDARD"));
    let third = small.run(&[]);
    assert_eq!((third.code, total(&third.report, "records", "inserted")), (0, 2), "{}", third.report);
    let skipped = third.report["jobs"][0]["skipped"].to_string();
    assert_eq!(skipped, r#"{"markers and hidden files":1}"#, "{}", third.report);
}

#[test]
fn an_object_that_is_overwritten_during_the_run_is_noticed_and_never_mixed() {
    let small = Small::new();
    let proxy = FaultProxy::start(small.server.address());
    let key = format!("{SMALL_KEY}2/o");
    let reads = |method: &str, target: &str| method == "GET" && target.ends_with("day=02/o");
    proxy.add(Rule::new(Fault::Delay(Duration::from_secs(2))).when(reads).times(1));
    let child = Small::command(&proxy.url(), &[]).spawn().unwrap();
    let begun = Instant::now();
    while !proxy.seen().iter().any(|seen| seen.query.contains("bronze") && seen.status.is_some()) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    small.server.put("b", &key, small_record("b2", 22));
    let first = ran(&child.wait_with_output().unwrap());
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!(total(&first.report, "records", "inserted"), 2, "{}", first.report);
    assert_eq!(first.report["jobs"][0]["skipped"]["objects that changed while they were read"], 1, "{}", first.report);
    let second = small.run(&[]);
    assert_eq!((second.code, total(&second.report, "records", "inserted")), (0, 1), "{}", second.report);
}

#[test]
fn old_days_are_listed_by_every_nth_run_on_request_and_when_objects_are_handed_back() {
    // Pages of two names, so that folders are asked for one by one.
    let small = Small::on(Options { page: 2, ..Options::default() });
    let proxy = FaultProxy::start(small.server.address());
    let jobs = jobs_with(small.folder.path(), "revisit: {within: 3 d, every: 3}");
    let old = |name: &str| small.server.put("b", &format!("{SMALL_KEY}1/{name}"), small_record(name, 1));
    let recent = |name: &str| {
        let day = chrono::Utc::now().format("year=%Y/month=%m/day=%d");
        let key = format!("bronze/database=fleetdb_de/entity=LogRecord/{day}/{name}");
        let today = chrono::Utc::now().format("%FT%T.000Z").to_string();
        small.server.put("b", &key, small_record(name, 1).replace("2025-01-01T10:00:00.000Z", &today));
    };
    let root = |name: &str| {
        let key = format!("bronze/database=fleetdb_de/entity=LogRecord/year=2024/{name}");
        small.server.put("b", &key, small_record(name, 1).replace("2025-", "2024-"));
    };
    // How many records came, whether all days were listed, in how many runs that will be so, and whether an old month was asked for.
    let run = |args: &[&str]| {
        proxy.forget();
        let ran = ran(&Small::command(&proxy.url(), &[&["--jobs", jobs.to_str().unwrap()], args].concat()).output().unwrap());
        assert_eq!(ran.code, 0, "{}\n{}", ran.report, ran.stderr);
        let days = &ran.report["jobs"][0]["days"];
        let is_old = |query: &str| {
            let plain = query.replace("%3D", "=").replace("%2F", "/");
            plain.split('&').any(|part| part.starts_with("prefix=") && part.contains("year=2025/month=01"))
        };
        let asked = proxy.seen().iter().any(|seen| is_old(&seen.query));
        (total(&ran.report, "records", "inserted"), days["from"].is_null(), days["all_in"].as_u64(), asked)
    };
    let first = run(&[]);
    assert_eq!((first.0, first.1, first.2), (3, true, Some(3)));
    for (name, all_in) in [("o1", 2), ("o2", 1)] {
        old(name);
        recent(&format!("r-{name}"));
        root(&format!("y-{name}"));
        assert_eq!(run(&[]), (2, false, Some(all_in), false));
    }
    assert_eq!(run(&[]), (2, true, Some(3), true));
    old("o3");
    assert_eq!(run(&[]).0, 0);
    assert_eq!(run(&["--revisit"]), (1, true, Some(3), true));
    old("o4");
    assert_eq!(run(&["--from", "2025-01-01", "--to", "2025-01-01"]).0, 1);
    assert_eq!(run(&[]).0, 0);
    // What is handed back is seen by the next run, however old its day.
    let places = ["--bronze", "s3://b/bronze", "--silver", "s3://b/silver", "--jobs", jobs.to_str().unwrap()];
    let mut forget = crate::support::etl(&["ledger", "forget", "--object", &format!("{SMALL_KEY}1/o4")["bronze/".len()..], "--execute"]);
    without_aws(&mut forget);
    forget.env("AWS_ENDPOINT_URL_S3", small.server.url()).env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "k");
    let forgot = forget.env("AWS_SECRET_ACCESS_KEY", "s").args(SMALL).args(places).output().unwrap();
    assert!(forgot.status.success(), "{}", text(&forgot));
    // A run that was on its way then counts itself afterwards.
    small.server.put("b", "silver/_etl/revisit/LogRecord/fleetdb_de/all.json", r#"{"runs":0,"mark":""}"#);
    let after = ran(&Small::command(&proxy.url(), &["--jobs", jobs.to_str().unwrap()]).output().unwrap());
    assert_eq!((after.code, total(&after.report, "files", "read")), (0, 1), "{}", after.report);
}

/// An object that is fetched in ranges, and whose second half is another's by then; once with a server that does not know If-Match.
#[test]
fn a_large_object_that_is_overwritten_between_its_ranges_is_noticed_too() {
    const SIZE: usize = 66 << 20;
    let large = |id: &str| {
        let mut bytes = small_record(id, 50).into_bytes();
        bytes.resize(SIZE, b'\n');
        bytes.extend_from_slice(small_record(&format!("{id}-end"), 50).as_bytes());
        bytes
    };
    for forgetful in [false, true] {
        let small = Small::new();
        let key = format!("{SMALL_KEY}2/o");
        small.server.put("b", &key, large("b7"));
        let reads = |method: &str, target: &str| method == "GET" && target.ends_with("day=02/o");
        let behind = FaultProxy::start(small.server.address());
        if forgetful {
            behind.add(Rule::new(Fault::ForgetCondition).when(reads));
        }
        let proxy = FaultProxy::start(behind.address());
        proxy.add(Rule::new(Fault::Delay(Duration::from_secs(3))).when(reads).after(3));
        let child = Small::command(&proxy.url(), &[]).spawn().unwrap();
        let begun = Instant::now();
        while !proxy.seen().iter().any(|seen| seen.path.ends_with("day=02/o") && seen.status.is_some()) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(5));
        }
        small.server.put("b", &key, large("b8"));
        let first = ran(&child.wait_with_output().unwrap());
        assert_eq!((first.code, total(&first.report, "records", "inserted")), (0, 2), "{}\n{}", first.report, first.stderr);
        assert_eq!(first.report["jobs"][0]["skipped"]["objects that changed while they were read"], 1, "{}", first.report);
        let second = small.run(&[]);
        assert_eq!((second.code, total(&second.report, "records", "inserted")), (0, 2), "{}", second.report);
    }
}

#[test]
fn a_session_that_ends_while_an_object_is_read_is_told_as_such() {
    let small = Small::new();
    let proxy = FaultProxy::start(small.server.address());
    let reads = |method: &str, target: &str| method == "GET" && target.ends_with("day=02/o");
    proxy.add(Rule::new(Fault::CutResponse).when(reads).times(1));
    proxy.add(Rule::new(Fault::expired_token()).when(reads));
    let ended = ran(&Small::command(&proxy.url(), &[]).output().unwrap());
    let told = format!("{}{}", ended.stderr, ended.report["error"]);
    assert!(ended.code == 2 && told.contains("ExpiredToken") && told.contains("decoded byte"), "{}: {told}", ended.code);
    let next = small.run(&[]);
    assert_eq!((next.code, total(&next.report, "records", "inserted")), (0, 3), "{}", next.report);
}

#[test]
fn a_signal_gives_up_a_batch_that_takes_too_long_and_gives_its_claim_back() {
    let small = Small::new();
    let proxy = FaultProxy::start(small.server.address());
    let reads = |method: &str, target: &str| method == "GET" && target.ends_with("day=03/o");
    proxy.add(Rule::new(Fault::Hang(Duration::from_mins(1))).when(reads));
    let child = Small::command(&proxy.url(), &["--stop-timeout", "8 s"]).spawn().unwrap();
    let claimed = || small.server.keys("b", "silver/_etl/ledger/").iter().any(|key| key.contains("/log/"));
    let begun = Instant::now();
    while !claimed() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    let told = Instant::now();
    assert!(std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
    let ended = ran(&child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.report["outcome"].as_str()), (143, Some("terminated")), "{}\n{}", ended.report, ended.stderr);
    assert!(told.elapsed() < Duration::from_secs(9), "{:?}", told.elapsed());
    // Not held for the rest of a lease.
    let next = small.run(&[]);
    assert_eq!((next.code, total(&next.report, "records", "inserted")), (0, 3), "{}", next.report);
}

#[test]
fn doctor_says_what_is_missing_and_refuses_servers_that_let_the_second_writer_win() {
    let small = Small::new();
    let doctor = |endpoint: &str| {
        let mut command = crate::support::etl(&["doctor", "--bronze", "s3://b/bronze", "--silver", "s3://b/silver", "--output", "json"]);
        without_aws(&mut command);
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "k");
        command.env("AWS_SECRET_ACCESS_KEY", "s").args(SMALL);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        (output.status.code().unwrap(), report)
    };
    let checks = |report: &Value, passed: bool| -> Vec<String> {
        let places = report["places"].as_array().unwrap().iter();
        let checks = places.flat_map(|place| place["checks"].as_array().unwrap());
        checks.filter(|check| check["passed"] == passed).map(|check| check["what"].as_str().unwrap().to_owned()).collect()
    };
    let (code, report) = doctor(&small.server.url());
    assert_eq!(code, 0, "{report}");
    let all = ["list", "read", "clock", "list", "write", "put-if-absent", "read", "race", "multipart", "delete", "clock"];
    assert_eq!(checks(&report, true), all, "{report}");
    assert!(small.server.keys("b", "silver/").is_empty() && small.server.open_uploads("b") == 0);

    let proxy = FaultProxy::start(small.server.address());
    proxy.add(Rule::new(Fault::ForgetCondition));
    let (code, report) = doctor(&proxy.url());
    assert_eq!((code, checks(&report, false)), (2, vec!["put-if-absent".to_owned(), "read".to_owned(), "race".to_owned()]), "{report}");
    let refused = ran(&Small::command(&proxy.url(), &[]).output().unwrap());
    assert_eq!(refused.code, 2, "{}", refused.report);
    assert!(refused.stderr.contains("lets a second writer overwrite"), "{}", refused.stderr);

    let denied = FaultProxy::start(small.server.address());
    denied.add(Rule::new(Fault::access_denied()).methods(&["DELETE"]));
    denied.add(Rule::new(Fault::access_denied()).when(|method, target| method == "POST" && target.ends_with("?delete")));
    let (code, report) = doctor(&denied.url());
    assert_eq!((code, checks(&report, false)), (2, vec!["multipart".to_owned(), "delete".to_owned()]), "{report}");
    let told = report.to_string();
    assert!(told.contains("s3:DeleteObject is needed") && told.contains("s3:AbortMultipartUpload is needed"), "{told}");
}

#[test]
fn a_task_takes_its_credentials_and_its_name_from_its_endpoint() {
    let small = Small::new();
    let (token, silver) = ("a-token", small.folder.path().join("r.json"));
    let ecs = Server::start("ecs.py", &["--port", "0", "--ttl", "60", "--token", token]);
    let with = |token: Option<&str>| {
        let mut command = Small::command(&small.server.url(), &["--metrics", "emf", "--report", silver.to_str().unwrap()]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v2/credentials/1", ecs.url));
        command.env("ECS_CONTAINER_METADATA_URI_V4", format!("{}/v4/1", ecs.url));
        if let Some(token) = token {
            command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", token);
        }
        ran(&command.output().unwrap())
    };
    let refused = with(None);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("no credentials"), "{}", refused.stderr);
    let ran = with(Some(token));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let task = ran.report["task"].as_str().unwrap();
    assert!(task.starts_with("arn:aws:ecs:") && ran.report["run_id"].as_str().unwrap().starts_with(task), "{}", ran.report);
    assert!(small.server.keys("b", "silver/_etl/runs/").len() == 1);
    assert!(!ran.stderr.contains(token) && !ran.report.to_string().contains(token));
    check_metrics(&ran);
}

#[test]
fn a_machine_and_a_web_identity_give_credentials_and_an_encryption_is_asked_for() {
    let small = Small::new();
    let machine = Server::start("ecs.py", &["--port", "0"]);
    let mut command = Small::command(&small.server.url(), &[]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_EC2_METADATA_DISABLED");
    let machines = ran(&command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.url).output().unwrap());
    assert_eq!((machines.code, total(&machines.report, "records", "inserted")), (0, 3), "{}", machines.stderr);
    assert!(!machines.stderr.contains("secret-") && !machines.report.to_string().contains("token-"));

    // A pod's or a CI job's: moto's STS trades the token for a session, and its S3 notes what it is asked to encrypt with.
    let bucket = Bucket::new(moto());
    bucket.upload_small();
    let token = small.folder.path().join("token");
    std::fs::write(&token, "a.web.identity").unwrap();
    let mut command = bucket.run_command(moto(), "silver", &[&SMALL[..], &["--silver-options", "sse=s3"]].concat());
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_ENDPOINT_URL_STS", moto());
    command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/etl");
    let identity = ran(&command.output().unwrap());
    assert_eq!((identity.code, total(&identity.report, "records", "inserted")), (0, 3), "{}", identity.stderr);
    let written = bucket.set("encryption", &["silver/LogRecord/"]);
    assert!(written.lines().count() >= 3 && written.lines().all(|line| line.ends_with(" AES256 -")), "{written}");
}

/// CloudWatch's own rules: one document a line, every metric a number at the root, every dimension a text.
fn check_metrics(ran: &Ran) {
    let documents: Vec<Value> =
        ran.stderr.lines().filter(|line| line.contains("\"_aws\"")).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), 1, "{}", ran.stderr);
    let document = &documents[0];
    let directive = &document["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "Silversmith");
    assert!(document["_aws"]["Timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    for name in directive["Dimensions"][0].as_array().unwrap() {
        assert!(document[name.as_str().unwrap()].is_string(), "{document}");
    }
    let metrics = directive["Metrics"].as_array().unwrap();
    assert!((10..=100).contains(&metrics.len()));
    for metric in metrics {
        assert!(document[metric["Name"].as_str().unwrap()].is_number(), "{document}");
    }
    let value = |name: &str| document[name].as_f64().unwrap();
    assert_eq!((value("RecordsInserted"), value("RunSucceeded"), value("RejectShare")), (3.0, 1.0, 0.0));
    assert!(value("NewestRecordLagSeconds") > 1e6 && value("RequestsGet") > 3.0 && value("RequestsCost") > 0.0);
}

#[test]
fn a_collector_gets_the_metrics_once() {
    let small = Small::new();
    let got: Arc<std::sync::Mutex<Vec<crate::http::Request>>> = Arc::default();
    let kept = got.clone();
    let handler: crate::http::Handler = Arc::new(move |request| {
        kept.lock().unwrap().push(request);
        Box::pin(async { crate::http::Reply::Whole(crate::http::Response::new(200)) })
    });
    let collector = crate::http::Server::start(0, 1, handler).unwrap();
    let mut command = Small::command(&small.server.url(), &["--metrics", "otlp"]);
    let ran = ran(&command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let got = got.lock().unwrap();
    assert_eq!(got.iter().map(crate::http::Request::path).collect::<Vec<_>>(), ["/v1/metrics"], "{}", ran.stderr);
    let body = String::from_utf8_lossy(&got[0].body);
    for word in ["silversmith.records_inserted", "silversmith.run_succeeded", "LogRecord", "entity"] {
        assert!(body.contains(word), "no {word}");
    }
    let lost =
        Small::command(&small.server.url(), &["--metrics", "otlp"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").output();
    let lost = crate::support::ran(&lost.unwrap());
    assert_eq!(lost.code, 0);
    assert!(lost.stderr.contains("not taken by the collector"), "{}", lost.stderr);
}

#[test]
fn few_round_trips_lie_before_the_first_object_and_few_requests_behind_each() {
    const LATENCY: Duration = Duration::from_millis(600);
    let small = Small::new();
    // The tables are there, silver was probed by this way, and there is something new.
    let proxy = FaultProxy::start(small.server.address());
    assert_eq!(ran(&Small::command(&proxy.url(), &[]).output().unwrap()).code, 0);
    proxy.forget();
    for object in 0..40 {
        small.server.put("b", &format!("{SMALL_KEY}5/n-{object:02}"), small_record(&format!("c{object}"), object));
    }
    proxy.add(Rule::new(Fault::Delay(LATENCY)));
    let command = Small::command(&proxy.url(), &[]).spawn().unwrap();
    // The first is seen when it is answered, and so is the one looked for: the time between is that of the trips before it.
    let (mut first, mut trips) = (None, None);
    let begun = Instant::now();
    while trips.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        let seen = proxy.seen();
        first = first.or((!seen.is_empty()).then(Instant::now));
        trips = seen.iter().any(|seen| seen.path.contains("day=05")).then(|| first.unwrap().elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    let ran = ran(&command.wait_with_output().unwrap());
    assert_eq!((ran.code, total(&ran.report, "records", "inserted")), (0, 40), "{}", ran.stderr);
    let trips = trips.unwrap().as_secs_f64() / LATENCY.as_secs_f64();
    let seen = proxy.seen();
    let reads = seen.iter().filter(|seen| seen.path.contains("/bronze/") && seen.method == "GET").count();
    let lists: Vec<&String> = seen.iter().filter(|seen| seen.query.contains("bronze")).map(|seen| &seen.query).collect();
    eprintln!("{trips:.1} round trips before the first object, {reads} GETs for 40 objects, {} requests in all", seen.len());
    let before: Vec<String> = seen
        .iter()
        .take_while(|seen| !seen.path.contains("day=05"))
        .map(|seen| format!("{} {}?{}", seen.method, seen.path, seen.query))
        .collect();
    assert!(trips < 7.0, "{trips} round trips: {before:#?}");
    assert!(reads <= 48 && lists.len() == 1, "{reads} {lists:?}");
}

/// In a network of its own, where the task's endpoint has the address that it has on ECS.
#[test]
fn a_task_takes_its_credentials_from_the_address_of_ecs() {
    const SCRIPT: &str = r#"
        ip link set lo up && ip addr add 169.254.170.2/32 dev lo || exit 77
        mkfifo "$FOLDER/open" && exec 9<>"$FOLDER/open"
        "$PYTHON" tests/servers/ecs.py --host 169.254.170.2 --port 80 <&9 >"$FOLDER/ecs" &
        "$S3_SERVER" --port 9000 --dir "$FOLDER/buckets" <&9 >"$FOLDER/s3" &
        for _ in $(seq 200); do [ -s "$FOLDER/ecs" ] && [ -s "$FOLDER/s3" ] && break; sleep 0.05; done
        AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/1 AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000 AWS_REGION=us-east-1 \
            "$ETL" run --entity LogRecord --country de --bronze s3://b/bronze --silver s3://b/silver --output json
        code=$?
        "$PYTHON" -c 'import urllib.request as u; print(u.urlopen("http://169.254.170.2/fetches").read().decode())' >&2
        kill %1 %2
        exit $code
    "#;
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("buckets/b/bronze/database=fleetdb_de/entity=LogRecord/year=2025/month=01/day=01/o");
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, small_record("b1", 1)).unwrap();
    let etl = PathBuf::from(env!("CARGO_BIN_EXE_etl"));
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "bash", "-c", SCRIPT]).current_dir(root()).env("FOLDER", folder.path()).env("ETL", &etl);
    without_aws(&mut command);
    command.env("PYTHON", crate::support::interpreter()).env("S3_SERVER", etl.parent().unwrap().join("examples/s3_server"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(77) || stderr.contains("unshare failed") {
        eprintln!("SKIPPED: this process may not make a network: {stderr}");
        return;
    }
    let ran = ran(&output);
    assert_eq!((ran.code, total(&ran.report, "records", "inserted")), (0, 1), "{stderr}");
    // One for bronze and one for silver, which may be others.
    assert!(stderr.contains("\"fetches\": 2,"), "{stderr}");
}
