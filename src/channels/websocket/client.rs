//! Client: one connected browser, sent what comes, pinged, and left when it is slow.

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::limits::{LIVE_GOODBYE, LIVE_PING, LIVE_SEND_MAX};

/// Serves one browser until it leaves, is left, or `stop`.
pub(super) async fn run(
    mut socket: WebSocket,
    mut news: broadcast::Receiver<Utf8Bytes>,
    hello: Utf8Bytes,
    stop: CancellationToken,
) {
    if !send_in_time(&mut socket, Message::Text(hello)).await {
        return;
    }
    let mut look = interval_at(Instant::now() + LIVE_PING, LIVE_PING);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let (code, reason) = loop {
        tokio::select! {
            () = stop.cancelled() => break (close_code::AWAY, "the worker stops"),
            text = news.recv() => match text {
                Ok(text) => if !send_in_time(&mut socket, Message::Text(text)).await { return },
                Err(RecvError::Lagged(_)) => break (close_code::AGAIN, "too slow"),
                Err(RecvError::Closed) => break (close_code::AWAY, "the worker stops"),
            },
            // What a browser sends is read, so that its pongs are, and means nothing else.
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(
                    Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_),
                )) => heard = Instant::now(),
            },
            _ = look.tick() => {
                if heard.elapsed() > LIVE_PING * 5 / 2
                    || !send_in_time(&mut socket, Message::Ping("".into())).await
                {
                    return;
                }
            }
        }
    };
    let goodbye = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // One that is slow has much to read before it reads this.
    let patience = if code == close_code::AGAIN { LIVE_SEND_MAX } else { LIVE_GOODBYE };
    let leave = async {
        if socket.send(goodbye).await.is_ok() {
            // Its goodbye is waited for: a connection that is closed before is reset, and what was
            // sent may be lost.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // It may be gone already.
    timeout(patience, leave).await.unwrap_or_default();
}

/// Sends a message; true if it was taken in time. Where it was not, part of it may be on its way,
/// so that no other can follow.
async fn send_in_time(socket: &mut WebSocket, message: Message) -> bool {
    matches!(timeout(LIVE_SEND_MAX, socket.send(message)).await, Ok(Ok(())))
}
