//! Serve: the address that browsers connect to, and the feeds from the broker that they are sent.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{
        State,
        ws::{Utf8Bytes, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use millstream_stages::{incident::Incident, notification::Notification};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, broadcast},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    auth::{Auth, PROTOCOL},
    client,
};
use crate::{
    broker::{Broker, ListenError, Listening},
    channels::{ChannelContext, sanitize},
    descriptors, http_server, limits,
    shortage::Shortage,
};

/// State that connections share.
struct Live {
    auth: Arc<Auth>,
    news: broadcast::Sender<Utf8Bytes>,
    hello: Utf8Bytes,
    room: Arc<Semaphore>,
    clients: TaskTracker,
    stop: CancellationToken,
}

/// Serves browsers until `stop`. An address that another worker of this host has is waited for.
pub(super) async fn serve(
    listen: SocketAddr,
    auth: &Arc<Auth>,
    context: &ChannelContext,
    broker: &Broker,
    stop: &CancellationToken,
) {
    let channel = context.name.as_str();
    let mut said = false;
    while !stop.is_cancelled() {
        match TcpListener::bind(listen).await {
            Ok(listener) => match feeds(context, broker).await {
                Ok(feeds) => {
                    let address = listener.local_addr().unwrap_or(listen);
                    tracing::info!(channel, %address, "browsers may connect");
                    run(listener, Arc::clone(auth), context, feeds, stop).await;
                }
                Err(error) => {
                    tracing::warn!(channel, %error, "could not listen for what browsers are told")
                }
            },
            Err(error) if said => {
                tracing::debug!(channel, %error, "the address for browsers is still taken")
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                said = true;
                tracing::info!(
                    channel,
                    %listen,
                    "the address for browsers is taken, \
                     by another worker of this host if all is well"
                );
            }
            Err(error) => {
                said = true;
                if let Some(shortage) = Shortage::of(&error) {
                    shortage.notice();
                }
                tracing::warn!(channel, %listen, %error, "could not open the address for browsers");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(limits::LIVE_BIND_AGAIN) => {}
        }
    }
}

/// Feeds of what browsers are sent: the channel's notifications, and the changes of the pipeline's
/// incidents.
async fn feeds(
    context: &ChannelContext,
    broker: &Broker,
) -> Result<Vec<(Listening, Read)>, ListenError> {
    let mut feeds: Vec<(Listening, Read)> =
        vec![(broker.listen(&context.names.live_subject(&context.name)).await?, notification)];
    for subject in &context.incidents {
        feeds.push((broker.listen(subject).await?, incident));
    }
    Ok(feeds)
}

/// Message for browsers of what came from the broker; `None` where it is not what it should be.
type Read = fn(&Bytes) -> Option<String>;

fn notification(body: &Bytes) -> Option<String> {
    Some(message("notification", &serde_json::from_slice::<Notification>(body).ok()?))
}

fn incident(body: &Bytes) -> Option<String> {
    Some(message("incident", &serde_json::from_slice::<Incident>(body).ok()?))
}

/// `{"type": what, what: …}`, with nothing in its texts that could harm who shows them as text.
fn message(what: &str, of: &impl Serialize) -> String {
    let mut value = serde_json::to_value(of).expect("what is told is plain data");
    sanitize::scrub(&mut value);
    json!({ "type": what, what: value }).to_string()
}

async fn run(
    listener: TcpListener,
    auth: Arc<Auth>,
    context: &ChannelContext,
    feeds: Vec<(Listening, Read)>,
    stop: &CancellationToken,
) {
    let (news, _) = broadcast::channel(limits::LIVE_QUEUE);
    let mut listeners = JoinSet::new();
    for (mut feed, read) in feeds {
        let (news, channel) = (news.clone(), context.name.clone());
        listeners.spawn(async move {
            while let Some(body) = feed.next().await {
                match read(&body) {
                    // It fails where no browser is connected.
                    Some(text) => _ = news.send(text.into()),
                    None => {
                        tracing::debug!(
                            channel,
                            "what came for browsers is neither a notification nor an incident"
                        )
                    }
                }
            }
        });
    }
    let hello = json!({
        "type": "hello",
        "pipeline": context.names.pipeline(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let live = Arc::new(Live {
        auth,
        news,
        hello: hello.to_string().into(),
        room: Arc::new(Semaphore::new(descriptors::share(limits::LIVE_CLIENTS_MAX))),
        clients: TaskTracker::new(),
        stop: stop.clone(),
    });
    let routes = Router::new().fallback(connect).with_state(Arc::clone(&live));
    tokio::select! {
        () = http_server::serve(listener, routes, stop.clone()) => {}
        // Panicked: whoever keeps this task starts it again. Or refused: it is tried again.
        Some(ended) = listeners.join_next() => if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        } else {
            tracing::warn!(channel = context.name, "the broker refuses what browsers are told");
        },
    }
    live.clients.close();
    // Whoever has not taken leave by then is left.
    tokio::time::timeout(limits::LIVE_GOODBYE, live.clients.wait()).await.unwrap_or_default();
}

async fn connect(
    State(live): State<Arc<Live>>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if uri.path() != live.auth.path {
        return StatusCode::NOT_FOUND.into_response();
    }
    if let Err(status) = live.auth.admit(&headers) {
        return status.into_response();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let Ok(place) = Arc::clone(&live.room).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // From before it is greeted: what happens meanwhile is not missed.
    let (news, hello, stop) = (live.news.subscribe(), live.hello.clone(), live.stop.clone());
    let token = live.clients.token();
    upgrade
        .protocols([PROTOCOL])
        .max_message_size(limits::LIVE_MESSAGE_BYTES_MAX)
        .max_frame_size(limits::LIVE_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| async move {
            client::run(socket, news, hello, stop).await;
            drop((place, token));
        })
}
