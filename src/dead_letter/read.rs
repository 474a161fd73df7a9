//! Read: stored letters that a filter matches, oldest or newest first, however many there are.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt as _, stream};

use super::{LetterFilter, filter::Selecting, stored::LetterRecord};
use crate::{
    broker::{AdminError, Broker, Scan, StoredMessage, StreamState},
    limits,
    wire::Names,
};

/// Range of sequences, both ends left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// Lower end: only letters of a higher sequence.
    pub after: u64,
    /// Upper end: only letters of a lower sequence.
    pub before: Option<u64>,
}

/// Reader of the letters of a pipeline.
#[derive(Debug, Clone)]
pub struct Letters {
    /// The connection.
    pub broker: Broker,
    /// The pipeline's names.
    pub names: Names,
}

/// Step of a reading: the letter that it found, and the sequence that it looked at.
#[derive(Debug)]
pub struct Examined<T> {
    /// Letter that the filter matches, if this is one.
    pub letter: Option<T>,
    /// Sequence that was looked at.
    pub seq: u64,
}

impl Letters {
    /// Name of the stream that holds them.
    pub fn stream(&self) -> String {
        self.names.dlq_stream()
    }

    /// Number of letters that a filter matches, where the server knows it: for one stage, or all.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn count(&self, filter: &LetterFilter) -> Result<Option<u64>, AdminError> {
        if !filter.is_by_stage() {
            return Ok(None);
        }
        let (stream, wanted) = (self.stream(), self.names.dlq_filter(filter.stage.as_deref()));
        self.broker.subjects_count(&stream, &wanted).await.map(Some)
    }

    /// Letters that `selecting` matches, oldest first, each after those that were looked at and do
    /// not match. Payloads are there where they are `with_body`, or where the filter needs them.
    pub fn oldest_first<'a>(
        &'a self,
        selecting: &'a Selecting,
        span: Span,
        with_body: bool,
    ) -> impl Stream<Item = Result<Examined<StoredMessage>, AdminError>> + Send + use<'a> {
        let scan = self.scan(selecting, span, with_body);
        self.broker.scan_some(&self.stream(), scan).then(async move |message| {
            let message = message?;
            let (seq, is_meant) = (message.seq, self.takes(selecting, &message).await?);
            Ok(Examined { letter: Some(message).filter(|_| is_meant), seq })
        })
    }

    /// True if a message of the stream is a letter, and matches.
    async fn takes(
        &self,
        selecting: &Selecting,
        message: &StoredMessage,
    ) -> Result<bool, AdminError> {
        Ok(self.names.is_dlq(&message.subject)
            && selecting.takes(&self.broker, &self.names, message).await?)
    }

    fn scan(&self, selecting: &Selecting, span: Span, with_body: bool) -> Scan {
        let since = selecting.since().and_then(|since| since.checked_sub(limits::CLOCKS_APART_MAX));
        Scan {
            // Where every stage matches, no filter: the server would look at each subject, and
            // each letter has its own.
            filter: selecting
                .stage()
                .map(|stage| self.names.dlq_filter(Some(stage)))
                .unwrap_or_default(),
            from_seq: span.after + 1,
            to_seq: span.before.map(|before| before.saturating_sub(1)),
            // A letter is stored when it is dead, or later where it was amended, but for how far
            // clocks differ.
            since: since.filter(|_| span.after == 0),
            headers_only: !with_body && !selecting.needs_body(),
        }
    }

    /// Letters that `selecting` matches, newest first, at most `limit`.
    ///
    /// The server reads a stream in one direction only. So windows of sequences are read from the
    /// end backwards, each growing where the last one held little, since letters that were dropped
    /// or redriven leave gaps.
    ///
    /// # Errors
    /// The stream could not be read.
    pub async fn newest_first<'a>(
        &self,
        selecting: &'a Selecting,
        span: Span,
        limit: usize,
    ) -> Result<
        impl Stream<Item = Result<Examined<LetterRecord>, AdminError>> + Send + use<'a>,
        AdminError,
    > {
        let state = self.broker.stream_state(&self.stream()).await?;
        let backwards = Backwards::new(self.clone(), selecting, span, limit, &state);
        Ok(stream::unfold(Some(backwards), |backwards| async move {
            let mut backwards = backwards?;
            match backwards.next().await {
                Ok(Some(seen)) => Some((Ok(seen), Some(backwards))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// Reading from the end of the stream to its beginning.
struct Backwards<'a> {
    letters: Letters,
    selecting: &'a Selecting,
    /// Lowest sequence wanted.
    low: u64,
    /// Highest sequence not looked at.
    high: u64,
    /// Width of the next window, in sequences.
    width: u64,
    /// Letters still wanted.
    left: usize,
    /// Letters of the last window, oldest first.
    found: VecDeque<LetterRecord>,
}

impl<'a> Backwards<'a> {
    fn new(
        letters: Letters,
        selecting: &'a Selecting,
        span: Span,
        limit: usize,
        state: &StreamState,
    ) -> Self {
        let last = span
            .before
            .map_or(state.last_seq, |before| state.last_seq.min(before.saturating_sub(1)));
        Self {
            letters,
            selecting,
            low: state.first_seq.max(span.after + 1),
            high: if state.messages == 0 { 0 } else { last },
            width: limits::NEWEST_WINDOW
                .max(limit as u64)
                .min(limits::NEWEST_WINDOW_LETTERS_MAX as u64),
            left: limit,
            found: VecDeque::new(),
        }
    }

    /// Next letter, or the sequence down to which none was found.
    async fn next(&mut self) -> Result<Option<Examined<LetterRecord>>, AdminError> {
        if let Some(letter) = self.found.pop_back() {
            self.left -= 1;
            return Ok(Some(Examined { seq: letter.seq, letter: Some(letter) }));
        }
        if self.left == 0 || self.high < self.low {
            return Ok(None);
        }
        self.read_window().await?;
        Ok(Some(Examined { letter: None, seq: self.high + 1 }))
    }

    async fn read_window(&mut self) -> Result<(), AdminError> {
        let from = (self.high + 1).saturating_sub(self.width).max(self.low);
        let span = Span { after: from - 1, before: Some(self.high + 1) };
        let keep = self.left.min(limits::NEWEST_WINDOW_LETTERS_MAX);
        let mut looked_at = 0_usize;
        // What follows the window again where it held more than may be kept.
        let mut next_high = from - 1;
        let mut too_old = false;
        let since =
            self.selecting.since().and_then(|since| since.checked_sub(limits::CLOCKS_APART_MAX));
        let scan = self.letters.scan(self.selecting, span, false);
        let mut messages = Box::pin(self.letters.broker.scan_some(&self.letters.stream(), scan));
        while let Some(message) = messages.next().await.transpose()? {
            // What stands before the first of the window was stored before it.
            too_old |= looked_at == 0 && since.is_some_and(|since| message.stored_at < since);
            looked_at += 1;
            if self.letters.takes(self.selecting, &message).await? {
                self.found.push_back(LetterRecord::of(&message));
                if self.found.len() > keep {
                    self.found.pop_front();
                    next_high = self.found.front().map_or(next_high, |oldest| oldest.seq - 1);
                }
            }
        }
        self.high = if too_old && next_high < from { 0 } else { next_high };
        if looked_at < limits::NEWEST_WINDOW_LETTERS_MAX {
            self.width = self.width.saturating_mul(4);
        }
        Ok(())
    }
}
