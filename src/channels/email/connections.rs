//! Connections: to one address of a mail server, kept open for the next mail; a mail's text goes
//! out in one piece.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lettre::{
    Message,
    transport::smtp::{
        self,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Tls},
        commands::{Data, Mail, Rcpt},
        extension::ClientId,
    },
};

use crate::limits;

/// How a connection is made.
pub(super) struct How {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) hello: ClientId,
    pub(super) timeout: Duration,
    pub(super) login: Option<Credentials>,
}

/// The connections to one address.
pub(super) struct Connections {
    how: How,
    /// Those that nobody uses, each with when it was last used; the last one was used last.
    idle: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
}

impl Connections {
    /// None yet. Runs a task, for as long as this is kept, that ends those that are not used.
    pub(super) fn new(how: How) -> Arc<Self> {
        let connections = Arc::new(Self { how, idle: Mutex::default() });
        let kept = Arc::downgrade(&connections);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(limits::SMTP_IDLE).await;
                let Some(connections) = kept.upgrade() else { return };
                for mut connection in connections.take_unused() {
                    connection.abort().await;
                }
            }
        });
        connections
    }

    /// Sends a mail.
    ///
    /// # Errors
    /// What the server said, or that it could not be reached; the connection is then ended.
    pub(super) async fn send(&self, message: &Message) -> Result<(), smtp::Error> {
        let mut connection = self.connection().await?;
        let sent = say(&mut connection, message).await;
        if sent.is_err() || connection.has_broken() {
            connection.abort().await;
            return sent;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::CHANNEL_CONCURRENCY {
            idle.push((Instant::now(), connection));
        }
        Ok(())
    }

    /// One that still answers, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        while let Some(mut connection) = self.take() {
            if connection.test_connected().await {
                return Ok(connection);
            }
            connection.abort().await;
        }
        let How { ip, port, tls, hello, timeout, login } = &self.how;
        let from_the_start = if let Tls::Wrapper(tls) = tls { Some(tls.clone()) } else { None };
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            (*ip, *port),
            Some(*timeout),
            hello,
            from_the_start,
            None,
        )
        .await?;
        if let Tls::Required(tls) = tls {
            connection.starttls(tls.clone(), hello).await?;
        }
        if let Some(login) = login {
            connection.auth(DEFAULT_MECHANISMS, login).await?;
        }
        Ok(connection)
    }

    fn take(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().map(|(_, connection)| connection)
    }

    fn take_unused(&self) -> Vec<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extract_if(.., |(used, _)| used.elapsed() >= limits::SMTP_IDLE)
            .map(|(_, connection)| connection)
            .collect()
    }
}

/// Says a mail on a connection.
///
/// The client's own way writes the text and the dot that ends it one after the other. Without
/// `TCP_NODELAY`, which it does not set, the dot then waits for the acknowledgement of the text,
/// and the server's kernel takes 40 ms for that. A mail of ours is ASCII, headers and all, unless
/// an address is not: then it says what more it asks of the server, and takes that long.
///
/// Source: lettre 0.11.23, `AsyncSmtpConnection::message_iter`; measured in `bench alerting`.
async fn say(connection: &mut AsyncSmtpConnection, message: &Message) -> Result<(), smtp::Error> {
    let (envelope, text) = (message.envelope(), message.formatted());
    let addresses = || envelope.to().iter().chain(envelope.from());
    let text = match String::from_utf8(text) {
        Ok(text)
            if text.is_ascii() && addresses().all(|address| address.to_string().is_ascii()) =>
        {
            text
        }
        Ok(text) => return connection.send(envelope, text.as_bytes()).await.map(drop),
        Err(error) => return connection.send(envelope, error.as_bytes()).await.map(drop),
    };
    connection.command(Mail::new(envelope.from().cloned(), Vec::new())).await?;
    for to in envelope.to() {
        connection.command(Rcpt::new(to.clone(), Vec::new())).await?;
    }
    connection.command(Data).await?;
    connection.command(with_end(&text)).await?;
    Ok(())
}

/// A text as it is sent after `DATA`: a dot at the start of a line doubled, and the dot that ends
/// it.
///
/// Source: RFC 5321, sections 4.1.1.4 and 4.5.2.
fn with_end(text: &str) -> String {
    let first = if text.starts_with('.') { "." } else { "" };
    let text = text.replace("\r\n.", "\r\n..");
    let end = if text.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" };
    format!("{first}{text}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_mail_ends_it() {
        for (text, sent) in [
            ("a: b\r\n\r\nhello", "a: b\r\n\r\nhello\r\n.\r\n"),
            ("a: b\r\n\r\nhello\r\n", "a: b\r\n\r\nhello\r\n.\r\n"),
            (".\r\n.\r\n..\r\n.x.\r\nend.", "..\r\n..\r\n...\r\n..x.\r\nend.\r\n.\r\n"),
            ("\r\n.\r\n", "\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(with_end(text), sent);
        }
    }
}
