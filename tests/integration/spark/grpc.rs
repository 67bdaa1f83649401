//! A proxy for gRPC on loopback: it tells what was called with which headers, and breaks the answers to statements.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its stream breaks off after so many frames.
    Cut(usize),
    /// The connection does, with everything on it.
    HangUp(usize),
    /// Its stream ends as if there was no more to come.
    End(usize),
    /// It never arrives, and the connection is gone.
    Lost,
    /// It never arrives, and there is no answer.
    Silence,
    /// Frames so many, then nothing more.
    Stall(usize),
}

/// A call as it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method's name.
    pub method: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub fault: Option<Fault>,
}

type Plan = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

struct Shared {
    to: SocketAddr,
    plan: Mutex<Plan>,
    calls: Mutex<Vec<Call>>,
}

pub struct GrpcProxy {
    pub address: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl GrpcProxy {
    /// In front of a server; `plan` says what becomes of each call, by its method.
    pub fn start(to: SocketAddr, plan: impl FnMut(&str) -> Option<Fault> + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("sc://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { to, plan: Mutex::new(Box::new(plan)), calls: Mutex::default() });
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, serving.clone()));
            }
        });
        Self { address, shared, _runtime: runtime }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }
}

/// One connection, and one of its own to the server.
async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let Ok(upstream) = TcpStream::connect(shared.to).await else { return };
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 26)
        .initial_connection_window_size(1 << 26)
        .handshake::<_, Bytes>(upstream)
        .await
        .unwrap();
    let pump = tokio::spawn(connection);
    let mut server = h2::server::handshake(socket).await.unwrap();
    let gone = Arc::new(Notify::new());
    loop {
        tokio::select! {
            () = gone.notified() => break,
            accepted = server.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    tokio::spawn(pass(request, respond, client.clone(), shared.clone(), gone.clone()));
                }
                _ => break,
            },
        }
    }
    pump.abort();
}

async fn pass(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    client: SendRequest<Bytes>,
    shared: Arc<Shared>,
    gone: Arc<Notify>,
) {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(data)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let fault = (shared.plan.lock().unwrap())(&method);
    shared.calls.lock().unwrap().push(Call { method, headers: head.headers.clone(), body: body.clone(), fault });
    match fault {
        Some(Fault::Lost) => gone.notify_one(),
        // The handle is kept: letting go of it would be an answer.
        Some(Fault::Silence) => std::future::pending().await,
        _ => {
            if let Err(error) = forward(Request::from_parts(head, body.into()), &mut respond, client, fault, &gone).await {
                respond.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
            }
        }
    }
}

async fn forward(
    request: Request<Bytes>,
    respond: &mut SendResponse<Bytes>,
    client: SendRequest<Bytes>,
    fault: Option<Fault>,
    gone: &Notify,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let (answer, mut up) = client.ready().await?.send_request(Request::from_parts(head, ()), false)?;
    up.send_data(body, true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut down = respond.send_response(Response::from_parts(head, ()), false)?;
    let mut frames = 0;
    loop {
        match fault {
            Some(Fault::Cut(after)) if frames >= after => {
                down.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Some(Fault::HangUp(after)) if frames >= after => {
                gone.notify_one();
                return Ok(());
            }
            Some(Fault::End(after)) if frames >= after => return end(&mut down),
            Some(Fault::Stall(after)) if frames >= after => std::future::pending().await,
            _ => {}
        }
        let Some(data) = body.data().await else { break };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        down.send_data(data, false)?;
        frames += 1;
    }
    match body.trailers().await? {
        Some(trailers) => down.send_trailers(trailers),
        None => down.send_data(Bytes::new(), true),
    }
}

/// What a server says that has no more to say.
fn end(down: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    down.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]))
}
