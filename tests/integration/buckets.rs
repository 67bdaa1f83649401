//! Buckets of real S3 servers on loopback: started once per test process, filled from and emptied into folders.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};

use crate::support::{Ran, etl, interpreter, ran, root};

/// A server of `tests/servers`; it ends with its stdin, so it does not outlive this process.
pub struct Server {
    pub url: String,
    _child: Child,
}

impl Server {
    /// `python tests/servers/<script> <args>`, which says where it listens.
    pub fn start(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new(interpreter());
        command.arg(root().join("tests/servers").join(script)).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap_or_else(|| panic!("{script} ended at once: {:?}", child.wait())).unwrap();
        let url = first.strip_prefix("listening ").unwrap_or_else(|| panic!("{script} said {first}")).to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self { url, _child: child }
    }
}

/// moto, shared by all tests of this process.
pub fn moto() -> &'static str {
    static MOTO: OnceLock<Server> = OnceLock::new();
    &MOTO.get_or_init(|| Server::start("moto.py", &["--port", "0"])).url
}

/// Ceph's RADOS Gateway from the distribution's packages: a second opinion from another implementation.
pub struct Ceph {
    pub url: String,
    /// The same over TLS, by a certificate of an authority that nobody knows.
    pub secure: String,
    folder: tempfile::TempDir,
}

impl Ceph {
    /// `None`, said loudly, where it cannot be installed.
    pub fn start() -> Option<Self> {
        let script = root().join("tests/servers/rgw.sh");
        let run = |args: &[&str]| Command::new("bash").arg(&script).args(args).stderr(Stdio::inherit()).output().unwrap();
        let installed = run(&["install"]);
        if installed.status.code() == Some(77) {
            eprintln!("SKIPPED: no Ceph here: {}", String::from_utf8_lossy(&installed.stdout));
            return None;
        }
        assert!(installed.status.success(), "{}", text(&installed));
        let folder = tempfile::tempdir().unwrap();
        let up = run(&["up", folder.path().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&up.stdout).into_owned();
        assert!(up.status.success(), "{}", text(&up));
        let after = |word: &str| said.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("{said}")).to_owned();
        Some(Self { url: after("listening "), secure: after("secure "), folder })
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        let script = root().join("tests/servers/rgw.sh");
        let _ = Command::new("bash").arg(script).arg("down").arg(self.folder.path()).status();
    }
}

pub const KEY: &str = "test";

pub struct Bucket {
    pub endpoint: String,
    pub name: String,
    pub client: AmazonS3,
}

impl Bucket {
    /// A new bucket of that server.
    pub fn new(endpoint: &str) -> Self {
        let name = format!("b-{}", uuid::Uuid::new_v4().simple());
        let bucket = Self { endpoint: endpoint.to_owned(), client: client(endpoint, &name), name };
        block_on(async {
            let url = bucket.client.signed_url("PUT".parse().unwrap(), &Key::from(""), Duration::from_mins(1)).await.unwrap();
            let http = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.method_mut() = "PUT".parse().unwrap();
            *request.uri_mut() = url.as_str().parse().unwrap();
            let answer = http.execute(request).await.unwrap();
            assert!(answer.status().is_success(), "{}: {:?}", bucket.name, answer.status());
        });
        bucket
    }

    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.name)
    }

    /// `etl` with a server and its credentials.
    pub fn etl(endpoint: &str, args: &[&str]) -> Command {
        let mut command = etl(args);
        without_aws(&mut command);
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", KEY);
        command
    }

    /// `etl run … --output json` from `bronze/` to a prefix of this bucket.
    pub fn run(&self, silver: &str, args: &[&str]) -> Ran {
        ran(&self.run_command(&self.endpoint, silver, args).output().unwrap())
    }

    pub fn run_command(&self, endpoint: &str, silver: &str, args: &[&str]) -> Command {
        let mut command = Self::etl(endpoint, &["run", "--output", "json"]);
        command.args(["--bronze", &self.url("bronze"), "--silver", &self.url(silver)]).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a bucket can do that stores know nothing of (`tests/python/bucket.py`).
    pub fn set(&self, command: &str, argument: &[&str]) -> String {
        let script = root().join("tests/python/bucket.py");
        let mut python = Command::new(interpreter());
        without_aws(&mut python);
        let output = python.arg(script).args([&self.endpoint, command, &self.name]).args(argument).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn upload(&self, folder: &Path, prefix: &str) {
        let mut files = Vec::new();
        walk(folder, &mut files);
        block_on(async {
            futures::stream::iter(files)
                .for_each_concurrent(8, |file| async move {
                    let relative = file.strip_prefix(folder).unwrap().to_str().unwrap();
                    self.put(&format!("{prefix}/{relative}"), std::fs::read(&file).unwrap()).await;
                })
                .await;
        });
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.client.put(&Key::parse(key).unwrap(), bytes.into()).await.unwrap();
    }

    /// Writes every object below a prefix into a folder, for readers of files.
    pub fn download(&self, prefix: &str, folder: &Path) {
        block_on(async {
            let objects: Vec<_> = self.client.list(Some(&Key::parse(prefix).unwrap())).try_collect().await.unwrap();
            futures::stream::iter(objects)
                .for_each_concurrent(8, |object| async move {
                    let relative = object.location.as_ref().strip_prefix(prefix).unwrap().trim_start_matches('/');
                    let path = folder.join(relative);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let bytes = self.client.get(&object.location).await.unwrap().bytes().await.unwrap();
                    std::fs::write(path, bytes).unwrap();
                })
                .await;
        });
    }
}

pub fn client(endpoint: &str, bucket: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(KEY)
        .with_secret_access_key(KEY)
        .build()
        .unwrap()
}

/// Without what the caller's environment says about AWS.
pub fn without_aws(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name.starts_with("ECS_")) {
        command.env_remove(name);
    }
    // No machine role is asked for, and no file of the person's.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}
