//! Peer: servers that channels post to, one that notes what it is sent and answers as it is set to,
//! one that speaks no HTTP.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

/// Answer of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The answer of the provider when all is well.
    Fine,
    /// 429 with `Retry-After: 7`.
    Busy,
    /// 503.
    Down,
    /// 400, with everything in it that it was sent.
    Repeat,
    /// 404.
    Gone,
    /// 302 to itself.
    Moved,
    /// 200, with a page that is not the provider's.
    Garbage,
    /// 200 with this in the body.
    Says(&'static str),
    /// No answer at all.
    Hang,
    /// 200, with a body that never ends.
    Endless,
}

/// Request that a peer was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Sent {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Parameters of the query.
    pub(super) fn query(&self) -> BTreeMap<String, String> {
        let url = reqwest::Url::parse(&format!("http://peer{}", self.uri)).unwrap();
        url.query_pairs().into_owned().collect()
    }
}

struct Books {
    how: Mutex<How>,
    fine: (StatusCode, &'static str),
    sent: Mutex<Vec<Sent>>,
}

/// HTTP server, until it is dropped.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    books: Arc<Books>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Starts a peer that answers this when all is well.
    pub(super) async fn start(status: u16, fine: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fine = (StatusCode::from_u16(status).unwrap(), fine);
        let books = Arc::new(Books { how: Mutex::new(How::Fine), fine, sent: Mutex::default() });
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&books));
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, books, task }
    }

    pub(super) fn answer(&self, how: How) {
        *self.books.how.lock().unwrap() = how;
    }

    /// Requests that it was sent since the last call.
    pub(super) fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.books.sent.lock().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(books): State<Arc<Books>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let repeat = format!("you sent {uri} {headers:?} {}", String::from_utf8_lossy(&body));
    books.sent.lock().unwrap().push(Sent { uri: uri.clone(), headers, body });
    let how = *books.how.lock().unwrap();
    match how {
        How::Fine => books.fine.into_response(),
        How::Busy => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")], "slow down")
            .into_response(),
        How::Down => (StatusCode::SERVICE_UNAVAILABLE, "no upstream").into_response(),
        How::Repeat => (StatusCode::BAD_REQUEST, repeat).into_response(),
        How::Gone => (StatusCode::NOT_FOUND, "no_service").into_response(),
        How::Moved => {
            let to = HeaderValue::try_from(uri.to_string()).unwrap();
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        How::Garbage => {
            (StatusCode::OK, "<html>please log in\u{0}\u{1b}[31m</html>").into_response()
        }
        How::Says(text) => (StatusCode::OK, text).into_response(),
        How::Hang => std::future::pending().await,
        How::Endless => {
            let chunks = futures_util::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096]))
            });
            axum::body::Body::from_stream(chunks).into_response()
        }
    }
}

/// Server that takes a connection, answers these bytes whatever it is sent, and closes.
pub(super) async fn raw(bytes: &'static [u8]) -> SocketAddr {
    speaking(bytes, false).await
}

/// Server as [`raw`], which does not wait to be spoken to.
pub(super) async fn raw_first(bytes: &'static [u8]) -> SocketAddr {
    speaking(bytes, true).await
}

async fn speaking(bytes: &'static [u8], first: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut taken = [0; 1024];
            // What it is sent is read, so that it is not a reset that ends the connection.
            if !first {
                _ = socket.read(&mut taken).await.unwrap();
            }
            socket.write_all(bytes).await.ok();
            socket.shutdown().await.ok();
        }
    });
    address
}

/// Address that nobody listens on.
pub(super) fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
