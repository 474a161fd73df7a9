//! HTTP server: an address of ours, whose connections are few and each of which has its time.
//!
//! A connection that is silent, slow, or kept open for a next request that does not come makes room
//! for a new one: however many there are, whoever asks now is answered.

mod spare;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::spare::{Lent, Spare};
use crate::{descriptors, limits, shortage::Shortage};

/// Open connection.
struct Open {
    /// Requests that it waits for an answer to.
    busy: Arc<AtomicUsize>,
    since: Instant,
    task: AbortHandle,
}

/// Serves `routes` until `stop`, then lets requests that have begun end, for
/// [`limits::HTTP_SERVER_GOODBYE`].
pub(crate) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let most = descriptors::share(limits::HTTP_SERVER_CONNECTIONS_MAX);
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut tasks = JoinSet::new();
    let spare = Spare::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            _ = tasks.join_next(), if !tasks.is_empty() => {
                open.retain(|connection| !connection.task.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if open.len() >= most && !make_room(&mut open, Duration::ZERO) {
                    // All are being answered. It is closed.
                    continue;
                }
                let busy = Arc::<AtomicUsize>::default();
                let stream = Lent::new(stream, Arc::clone(&spare));
                let serving = connection(stream, routes.clone(), Arc::clone(&busy), stop.clone());
                let task = tasks.spawn(serving);
                open.push_back(Open { busy, since: Instant::now(), task });
            }
            Err(error) => {
                let shortage = Shortage::of(&error);
                if let Some(shortage) = shortage {
                    shortage.notice();
                }
                if shortage == Some(Shortage::Files) && spare.lend() {
                    continue;
                }
                // The system says so also where nobody has come: it looks for a descriptor first.
                make_room(&mut open, limits::HTTP_SERVER_SILENT);
                if !is_of_one_connection(&error) {
                    tokio::time::sleep(limits::HTTP_SERVER_ACCEPT_AGAIN).await;
                }
            }
        }
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    // What is left is closed when it is dropped.
    timeout(limits::HTTP_SERVER_GOODBYE, ended).await.unwrap_or_default();
}

/// Closes the oldest connection that waits for no answer, and is so old; false if there is none.
fn make_room(open: &mut VecDeque<Open>, age: Duration) -> bool {
    let is_silent = |it: &Open| it.busy.load(Ordering::Relaxed) == 0 && it.since.elapsed() >= age;
    let idle = open.iter().position(is_silent);
    let Some(connection) = idle.and_then(|at| open.remove(at)) else { return false };
    connection.task.abort();
    true
}

/// Serves one connection to its end.
async fn connection(stream: Lent, routes: Router, busy: Arc<AtomicUsize>, stop: CancellationToken) {
    let routes = TowerToHyperService::new(routes);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let hold = Busy::new(&busy);
        let answer = routes.call(request);
        async move {
            let answer = answer.await;
            drop(hold);
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_SERVER_HEADER_WAIT)
        .max_buf_size(limits::HTTP_SERVER_REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    // Whatever comes of it is the peer's business.
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(limits::HTTP_SERVER_CONNECTION_MAX) => {}
    }
    serving.as_mut().graceful_shutdown();
    _ = timeout(limits::HTTP_SERVER_HEADER_WAIT, serving).await;
}

/// Request that waits for its answer.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// True for an error of the connection that was to be taken, and not of the address.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn served() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slow"
        };
        let routes = Router::new().route("/", get(|| async { "here" })).route("/slow", get(slow));
        tokio::spawn(serve(listener, routes, stop.clone()));
        (address, stop)
    }

    async fn asked(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn silent_connections_make_room_for_whoever_asks() {
        let (address, _stop) = served().await;
        let mut silent = Vec::new();
        for n in 0..4 * limits::HTTP_SERVER_CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nx-slowly: ").await.unwrap();
            }
            silent.push(stream);
            if n % 32 == 0 {
                assert_eq!(asked(address, "/").await, "here");
            }
        }
        let slow = tokio::spawn(asked(address, "/slow"));
        assert_eq!(asked(address, "/").await, "here");
        assert_eq!(slow.await.unwrap(), "slow", "what is being answered is not closed");
        // The oldest are gone.
        let mut left = [0; 64];
        let read = timeout(Duration::from_secs(5), silent[1].read(&mut left)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn a_request_has_its_time_and_its_size() {
        let (address, _stop) = served().await;
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut large = TcpStream::connect(address).await.unwrap();
        let header = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(64 << 10));
        // It may be refused before it was sent.
        large.write_all(header.as_bytes()).await.ok();
        let mut said = Vec::new();
        large.read_to_end(&mut said).await.ok();
        assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
        let patience = limits::HTTP_SERVER_HEADER_WAIT + Duration::from_secs(10);
        let mut said = Vec::new();
        let ended = timeout(patience, late.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "it is still open after {patience:?}");
        assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
    }

    #[tokio::test]
    async fn what_was_begun_is_answered_when_it_stops() {
        let (address, stop) = served().await;
        let slow = tokio::spawn(asked(address, "/slow"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert_eq!(slow.await.unwrap(), "slow");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
