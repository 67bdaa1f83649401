//! Each fault of the proxy, and the framing, seen from a raw connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::proxy::{Fault, FaultProxy, Rule};
use crate::http::s3::{Options, S3Server};

struct World {
    s3: S3Server,
    proxy: FaultProxy,
}

fn world() -> World {
    let s3 = S3Server::start(Options::default()).unwrap();
    s3.create_bucket("b");
    let proxy = FaultProxy::start(s3.address());
    World { s3, proxy }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Sends bytes and returns all that comes until the end, and how it ended.
fn raw(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn parsed(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: bytes[end + 4..].to_vec() }
}

fn call(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Answer {
    let (bytes, end) = raw(address, &request(method, target, "", body));
    assert_eq!(end, None, "{method} {target}");
    parsed(&bytes)
}

fn reset(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let (bytes, end) = raw(address, &request(method, target, "", body));
    assert_eq!(end, Some(ErrorKind::ConnectionReset), "{:?}", String::from_utf8_lossy(&bytes));
    bytes
}

#[test]
fn without_faults_all_passes_as_it_is() {
    let World { s3, proxy } = world();
    let body = vec![7; 3_000_000];
    assert_eq!(call(proxy.address(), "PUT", "/b/a%3Db/%2B%20c", &body).status, 200);
    assert_eq!(s3.get("b", "a=b/+ c").unwrap().len(), body.len());
    let direct = call(s3.address(), "GET", "/b/a%3Db/%2B%20c", b"");
    let passed = call(proxy.address(), "GET", "/b/a%3Db/%2B%20c", b"");
    assert_eq!((passed.status, &passed.body), (direct.status, &direct.body));
    let head = call(proxy.address(), "HEAD", "/b/a%3Db/%2B%20c", b"");
    assert!(head.body.is_empty() && head.head.contains("content-length: 3000000"), "{head:?}");
    assert_eq!(call(proxy.address(), "DELETE", "/b/a%3Db/%2B%20c", b"").status, 204);
    let seen = proxy.seen();
    let statuses: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.status, seen.upstream, seen.fault)).collect();
    assert_eq!(
        statuses,
        [
            ("PUT", Some(200), Some(200), None),
            ("GET", Some(200), Some(200), None),
            ("HEAD", Some(200), Some(200), None),
            ("DELETE", Some(204), Some(204), None)
        ]
    );
    assert_eq!(seen[0].path, "/b/a=b/+ c");
}

#[test]
fn the_server_gets_the_host_and_the_target_as_they_were_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"body!") {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..length]);
        }
        // An answer without a length, until the end.
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nX-Any: 1\r\n\r\nuntil the end").unwrap();
        String::from_utf8(got).unwrap()
    });
    let answer = call(proxy.address(), "PUT", "/b/%7e%2F?x-id=PutObject&a=%20+", b"body!");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"until the end"[..]));
    assert!(answer.head.contains("x-any: 1"));
    let got = server.join().unwrap();
    assert!(got.starts_with("PUT /b/%7e%2F?x-id=PutObject&a=%20+ HTTP/1.1\r\n") && got.contains("host: b.example\r\n"), "{got}");
}

#[test]
fn keep_alive_chunks_and_continue() {
    let World { s3, proxy } = world();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"PUT /b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n").unwrap();
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"3\r\nabc\r\n4;x=y\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"defg\r\n0\r\nTrailer: x\r\n\r\n").unwrap();
    let length = stream.read(&mut buffer).unwrap();
    assert_eq!(parsed(&buffer[..length]).status, 200);
    assert_eq!(s3.get("b", "k").unwrap(), "abcdefg");
    stream.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let length = stream.read(&mut buffer).unwrap();
    assert_eq!(parsed(&buffer[..length]).body, b"abcdefg");
    stream.write_all(b"nonsense\r\n\r\n").unwrap();
    let length = stream.read(&mut buffer).unwrap();
    assert_eq!(parsed(&buffer[..length]).status, 400);
}

#[test]
fn a_body_that_breaks_off_is_not_handled() {
    let World { s3, proxy } = world();
    for address in [s3.address(), proxy.address()] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"PUT /b/torn HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
        drop(stream);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(s3.keys("b", "").is_empty() && proxy.seen().is_empty());
}

#[test]
fn slow_down_comes_before_the_server() {
    let World { s3, proxy } = world();
    proxy.add(Rule::new(Fault::SlowDown).methods(&["PUT"]).times(1));
    let answer = call(proxy.address(), "PUT", "/b/k", b"x");
    assert_eq!(answer.status, 503);
    assert!(String::from_utf8(answer.body).unwrap().contains("<Code>SlowDown</Code>"));
    assert!(s3.get("b", "k").is_none());
    assert_eq!(call(proxy.address(), "PUT", "/b/k", b"x").status, 200);
    assert_eq!(proxy.counts().into_iter().collect::<Vec<_>>(), [("slow_down", 1)]);
    assert_eq!((proxy.seen()[0].status, proxy.seen()[0].upstream), (Some(503), None));
}

#[test]
fn slow_down_and_internal_error_after_are_applied() {
    let World { s3, proxy } = world();
    proxy.add(Rule::new(Fault::SlowDownAfter).contains("one"));
    proxy.add(Rule::new(Fault::InternalErrorAfter).contains("two"));
    assert_eq!(call(proxy.address(), "PUT", "/b/one", b"1").status, 503);
    let answer = call(proxy.address(), "PUT", "/b/two", b"2");
    assert_eq!(answer.status, 500);
    assert!(String::from_utf8(answer.body).unwrap().contains("InternalError"));
    assert_eq!(s3.keys("b", ""), ["one", "two"]);
    assert_eq!((proxy.seen()[0].status, proxy.seen()[0].upstream), (Some(503), Some(200)));
}

#[test]
fn resets_before_and_after() {
    let World { s3, proxy } = world();
    proxy.add(Rule::new(Fault::ResetBefore).suffix("before"));
    proxy.add(Rule::new(Fault::ResetAfter).suffix("after"));
    assert!(reset(proxy.address(), "PUT", "/b/before", b"1").is_empty());
    assert!(reset(proxy.address(), "PUT", "/b/after", b"1").is_empty());
    assert_eq!(s3.keys("b", ""), ["after"]);
    let seen = proxy.seen();
    assert_eq!((seen[0].status, seen[0].upstream, seen[1].status, seen[1].upstream), (None, None, None, Some(200)));
}

#[test]
fn half_a_body_is_not_stored() {
    let World { s3, proxy } = world();
    proxy.add(Rule::new(Fault::HalfBody).times(1));
    // It has no body, so it is not met.
    assert_eq!(call(proxy.address(), "GET", "/b?list-type=2", b"").status, 200);
    assert!(reset(proxy.address(), "PUT", "/b/half", &vec![1; 1_000_000]).is_empty());
    assert!(s3.keys("b", "").is_empty());
    assert_eq!(s3.stats().put, 0);
    assert_eq!(call(proxy.address(), "PUT", "/b/half", b"whole").status, 200);
}

#[test]
fn half_a_body_reaches_the_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap());
    proxy.add(Rule::new(Fault::HalfBody));
    let server = std::thread::spawn(move || {
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        got
    });
    reset(proxy.address(), "PUT", "/b/half", &[1; 1000]);
    let got = server.join().unwrap();
    assert!(got.windows(20).any(|line| line == b"content-length: 1000"));
    assert!(got.ends_with(&[1; 500]) && !got.ends_with(&[1; 501]));
}

#[test]
fn hang_and_delay() {
    let World { s3, proxy } = world();
    proxy.add(Rule::new(Fault::Hang(Duration::from_millis(300))).suffix("hang"));
    proxy.add(Rule::new(Fault::Delay(Duration::from_millis(300))).suffix("delay"));
    let start = Instant::now();
    let (bytes, end) = raw(proxy.address(), &request("PUT", "/b/hang", "", b"1"));
    assert!(bytes.is_empty() && end.is_none() && start.elapsed() >= Duration::from_millis(300));
    assert!(s3.get("b", "hang").is_some());
    let start = Instant::now();
    assert_eq!(call(proxy.address(), "PUT", "/b/delay", b"1").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(300));
    // A client that has gone changes nothing.
    s3.delete("b", "delay");
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(&request("PUT", "/b/delay", "", b"1")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(stream);
    assert!(s3.get("b", "delay").is_none());
    std::thread::sleep(Duration::from_millis(500));
    assert!(s3.get("b", "delay").is_some());
}

#[test]
fn an_answer_is_cut() {
    let World { s3, proxy } = world();
    s3.put("b", "k", vec![3; 100_000]);
    proxy.add(Rule::new(Fault::CutResponse));
    let answer = parsed(&reset(proxy.address(), "GET", "/b/k", b""));
    assert_eq!((answer.status, answer.body.len()), (200, 50_000));
    assert!(answer.head.contains("content-length: 100000"));
    // There is nothing in this answer but its head.
    let bytes = reset(proxy.address(), "PUT", "/b/l", b"1");
    assert!(bytes.starts_with(b"HTTP/1.1 ") && !bytes.windows(4).any(|four| four == b"\r\n\r\n"));
    assert!(s3.get("b", "l").is_some());
}

#[test]
fn a_large_answer_is_cut() {
    let World { s3, proxy } = world();
    s3.put("b", "k", vec![3; 32 << 20]);
    proxy.add(Rule::new(Fault::CutResponse));
    let answer = parsed(&reset(proxy.address(), "GET", "/b/k", b""));
    assert!(answer.body.len() > 1 << 20 && answer.body.len() <= 16 << 20, "{}", answer.body.len());
}

#[test]
fn a_prefix_is_throttled() {
    let World { s3, proxy } = world();
    s3.put("b", "hot/k", "1");
    s3.put("b", "cold/k", "1");
    proxy.add(Rule::new(Fault::Throttle { prefix: "hot/".to_owned(), per_second: 5 }));
    let statuses: Vec<_> = (0..10).map(|_| call(proxy.address(), "GET", "/b/hot/k", b"").status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 503).count(), 5, "{statuses:?}");
    assert_eq!(call(proxy.address(), "GET", "/b?list-type=2&prefix=hot%2F", b"").status, 503);
    assert!((0..10).all(|_| call(proxy.address(), "GET", "/b/cold/k", b"").status == 200));
    std::thread::sleep(Duration::from_millis(450));
    let statuses: Vec<_> = (0..5).map(|_| call(proxy.address(), "GET", "/b/hot/k", b"").status).collect();
    assert!((2..=3).contains(&statuses.iter().filter(|&&status| status == 200).count()), "{statuses:?}");
}

#[test]
fn errors_of_s3() {
    let World { s3, proxy } = world();
    let faults = [
        (Fault::access_denied(), 403, "AccessDenied"),
        (Fault::expired_token(), 400, "ExpiredToken"),
        (Fault::clock_skew(), 403, "RequestTimeTooSkewed"),
        (Fault::no_such_bucket(), 404, "NoSuchBucket"),
        (Fault::conflict(), 409, "ConditionalRequestConflict"),
        (Fault::moved("eu-west-1"), 301, "PermanentRedirect"),
    ];
    for (fault, status, code) in faults {
        proxy.clear();
        proxy.add(Rule::new(fault));
        let answer = call(proxy.address(), "GET", "/b/k", b"");
        assert_eq!(answer.status, status);
        assert!(String::from_utf8(answer.body).unwrap().contains(&format!("<Code>{code}</Code>")));
        assert_eq!(answer.head.contains("x-amz-bucket-region: eu-west-1"), status == 301);
    }
    assert_eq!(s3.stats().requests(), 0);
}

#[test]
fn rules_are_counted_and_ordered() {
    let World { s3: _s3, proxy } = world();
    let fire = |count| (0..count).map(|_| call(proxy.address(), "GET", "/b/year=1/k", b"").status).collect::<Vec<_>>();
    proxy.add(Rule::new(Fault::SlowDown).contains("year=1").every(3).times(2));
    assert_eq!(fire(9), [404, 404, 503, 404, 404, 503, 404, 404, 404]);
    proxy.clear();
    proxy.add(Rule::new(Fault::access_denied()).after(2).times(1));
    proxy.add(
        Rule::new(Fault::SlowDown)
            .methods(&["GET"])
            .prefix("/b/")
            .suffix("k")
            .when(|method, target| method == "GET" && target == "/b/year=1/k"),
    );
    proxy.add(Rule::new(Fault::ResetBefore));
    assert_eq!(fire(4), [503, 503, 403, 503]);
    assert_eq!(proxy.counts()["slow_down"], 5);
    proxy.forget();
    assert!(proxy.seen().is_empty() && proxy.counts().is_empty());
}

#[test]
fn chance_is_a_matter_of_the_seed_and_not_of_the_order() {
    let s3 = S3Server::start(Options::default()).unwrap();
    s3.create_bucket("b");
    let run = |seed: u64, threads: usize| {
        let proxy = Arc::new(FaultProxy::seeded(s3.address(), seed));
        proxy.add(Rule::new(Fault::SlowDown).probability(0.2));
        proxy.add(Rule::new(Fault::ResetBefore).probability(0.2));
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let proxy = Arc::clone(&proxy);
                std::thread::spawn(move || {
                    for key in (0..400).filter(|key| key % threads == worker) {
                        raw(proxy.address(), &request("GET", &format!("/b/{}", key % 100), "", b""));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let mut seen: Vec<_> = proxy.seen().into_iter().map(|seen| (seen.path, seen.fault)).collect();
        seen.sort();
        (seen, proxy.counts())
    };
    let (once, counts) = run(7, 1);
    assert_eq!(once, run(7, 4).0);
    assert_ne!(once, run(8, 1).0);
    assert!((50..=110).contains(&counts["slow_down"]) && (40..=95).contains(&counts["reset_before"]), "{counts:?}");
    let proxy = FaultProxy::seeded(s3.address(), 7);
    assert!(proxy.to_string().ends_with("seed 7") && proxy.seed() == 7);
}

#[test]
fn a_server_that_is_gone_is_a_reset() {
    let World { s3, proxy } = world();
    assert_eq!(call(proxy.address(), "PUT", "/b/k", b"1").status, 200);
    drop(s3);
    std::thread::sleep(Duration::from_millis(50));
    reset(proxy.address(), "GET", "/b/k", b"");
    let address = proxy.address();
    drop(proxy);
    std::thread::sleep(Duration::from_millis(50));
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn servers_may_be_dropped_within_a_runtime() {
    let World { s3, proxy } = world();
    drop((s3, proxy));
}

#[test]
fn latency_concurrency_and_counters() {
    let s3 = S3Server::start(Options { latency: Duration::from_millis(50), concurrent: 2, ..Options::default() }).unwrap();
    s3.put("b", "k", "12345");
    let start = Instant::now();
    let address = s3.address();
    let workers: Vec<_> = (0..6).map(|_| std::thread::spawn(move || call(address, "GET", "/b/k", b"").status)).collect();
    assert!(workers.into_iter().all(|worker| worker.join().unwrap() == 200));
    assert!((150..400).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let stats = s3.stats();
    assert_eq!((stats.get, stats.requests(), stats.bytes_out), (6, 6, 30));
    let json = String::from_utf8(call(address, "GET", "/_stats", b"").body).unwrap();
    assert!(json.contains("\"get\":6,") && json.contains("\"cpu_seconds\":"), "{json}");
    assert_eq!(call(address, "POST", "/_reset", b"").status, 204);
    assert_eq!(s3.stats().requests(), 0);
}

#[test]
fn a_million_keys() {
    let s3 = S3Server::start(Options::default()).unwrap();
    let start = Instant::now();
    s3.fill("b", (0..1_000_000).map(|n| (format!("d{}/k{n:07}", n % 10), bytes::Bytes::from_static(b"{}"))));
    eprintln!("filled in {:?}", start.elapsed());
    let start = Instant::now();
    let mut target = "/b?list-type=2".to_owned();
    let mut pages = 0;
    loop {
        let body = String::from_utf8(call(s3.address(), "GET", &target, b"").body).unwrap();
        pages += 1;
        let Some((_, rest)) = body.split_once("<NextContinuationToken>") else { break };
        let token = rest.split_once('<').unwrap().0.replace('+', "%2B");
        target = format!("/b?list-type=2&continuation-token={token}");
    }
    eprintln!("{pages} pages in {:?}", start.elapsed());
    assert_eq!(pages, 1000);
    let start = Instant::now();
    let body = String::from_utf8(call(s3.address(), "GET", "/b?list-type=2&delimiter=/", b"").body).unwrap();
    eprintln!("delimiter in {:?}", start.elapsed());
    assert_eq!(body.matches("<CommonPrefixes>").count(), 10);
}
