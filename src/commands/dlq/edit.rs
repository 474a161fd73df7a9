//! `dlq edit`: changes a letter's payload, in an editor or by a flag, and checks it first.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use millstream_stages::headers;

use super::{Dlq, lines};
use crate::{
    bounded_file,
    broker::{StoredMessage, get},
    commands::{flags::key_value, people::who, printable},
    dead_letter::{
        LetterRecord, edit,
        splice::{respaced, splice},
        stored,
    },
    limits,
    wire::Place,
};

/// Arguments of `dlq edit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq edit 17                                    in $VISUAL or $EDITOR
  millstream dlq edit 17 --set eventData.amount=5 --set eventData.currency=EUR
  millstream dlq edit 17 --set '/eventData/a.b=\"5\"'         \
a JSON pointer, for keys with dots; the text 5
  millstream dlq edit 17 --file mended.json
  jq '.eventData.items |= unique' payload.json | millstream dlq edit 17 --file -

--set replaces one value, and every other byte of the payload stays as it is: \
a number keeps its digits, keys keep
their order. VALUE is taken as JSON if it is JSON, else as text. \
In the editor JSON is shown indented; if it came
without white space, it is stored without.

The result must be an event in the letter's envelope, keep its id, \
and pass the schemas on the way to its stage. What
the letter was is kept beside it until it expires, and `show` has it. The letter gets a new number.

Exit status: 0 stored, or nothing was changed, 2 could not.")]
pub(super) struct Args {
    /// Letter number, as `ls` prints it
    letter: u64,
    /// Set the value at PATH (keys and indices joined by dots); may be given again
    #[arg(id = "path_value", long = "set", value_name = "PATH=VALUE", conflicts_with = "file")]
    set: Vec<String>,
    /// Set one key of the configuration, as --set does for other commands
    // It has the id of the flag that all commands share, which so takes its value.
    #[arg(id = "set", long = "config-set", value_name = "KEY=VALUE", value_parser = key_value)]
    config_set: Vec<(String, String)>,
    /// Take the whole payload from a file, or from standard input where it is -
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Store it whatever it is
    #[arg(long)]
    no_check: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Edits a letter.
///
/// # Errors
/// The result is not fit, or could not be stored. The letter is as it was.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let (broker, names) = (&dlq.letters.broker, &dlq.letters.names);
    let letter = super::letter(broker, names, args.letter).await?;
    let record = LetterRecord::of(&letter);
    let source = match Place::parse(&record.source) {
        Some(place) => {
            let found = broker.message(&place.stream, place.seq).await.ok().flatten();
            found.filter(|message| place.is(message))
        }
        None => None,
    };
    let payload = stored::payload(broker, names, &letter).await?;
    let payload = payload.with_context(|| {
        format!(
            "the payload of letter {}, which was kept apart, is gone; --file gives it another",
            letter.seq
        )
    });
    // Whoever has the payload from elsewhere may put it back.
    let payload = if args.file.is_some() { payload.unwrap_or_default() } else { payload? };
    let draft = EditedPayload::of(&args, &payload).await?;
    if draft.body == payload {
        let said = if args.json { r#"{"changed":false}"# } else { "nothing changed" };
        lines::print(said)?;
        return Ok(ExitCode::SUCCESS);
    }
    // What someone has typed is not lost with the error.
    let stored = store(dlq, &letter, &record, source.as_ref(), &draft.body, args.no_check).await;
    let new = match stored {
        Ok(new) => new,
        Err(error) => return Err(draft.kept(error, args.letter)),
    };
    lines::print(&if args.json {
        serde_json::json!({ "changed": true, "letter": new, "was": args.letter }).to_string()
    } else {
        format!(
            "letter {} is letter {new} now; what it was is kept\n\
             next: millstream dlq redrive {new}",
            args.letter
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn store(
    dlq: &Dlq,
    letter: &StoredMessage,
    record: &LetterRecord,
    source: Option<&StoredMessage>,
    body: &Bytes,
    no_check: bool,
) -> anyhow::Result<u64> {
    let unfit = |error: edit::Unfit| {
        anyhow::anyhow!(
            "the edited payload is not fit, so letter {} is as it was: {error}\n \
             hint: mend it, or --no-check stores it all the same",
            letter.seq
        )
    };
    let message_id = source.and_then(|source| get(&source.headers, headers::MSG_ID));
    let event = match edit::read(letter, message_id, body.clone()) {
        Ok(event) => {
            if !no_check {
                edit::check(&dlq.pipeline, &record.stage, &record.source, &event)
                    .await
                    .map_err(unfit)?;
            }
            Some(event)
        }
        Err(_) if no_check => None,
        Err(error) => return Err(unfit(error)),
    };
    let all = edit::edited(letter, event.as_ref(), &who(), dlq.letters.broker.now());
    let Dlq { letters, .. } = dlq;
    Ok(edit::put(&letters.broker, &letters.names, letter, all, body.clone()).await?)
}

/// A payload as it was edited.
struct EditedPayload {
    body: Bytes,
    /// File in which it was typed; `None` for `--set` and `--file`.
    file: Option<Scratch>,
}

impl EditedPayload {
    async fn of(args: &Args, payload: &Bytes) -> anyhow::Result<Self> {
        let body = match &args.file {
            _ if !args.set.is_empty() => Bytes::from(set(&args.set, payload)?),
            Some(path) if path == Path::new("-") => {
                let stdin = std::io::stdin().lock();
                bounded_file::read_all(stdin, limits::EDITED_BYTES_MAX)
                    .context("could not read standard input")?
                    .into()
            }
            Some(path) => bounded_file::read(path, limits::EDITED_BYTES_MAX)
                .with_context(|| format!("could not read \"{}\"", path.display()))?
                .into(),
            None => return in_editor(args.letter, payload).await,
        };
        Ok(Self { body, file: None })
    }

    /// Keeps the text that was typed, and says in the error where.
    fn kept(mut self, error: anyhow::Error, letter: u64) -> anyhow::Error {
        let Some(scratch) = &mut self.file else { return error };
        scratch.keep = true;
        let path = scratch.path.display();
        error.context(format!("your text is kept: millstream dlq edit {letter} --file {path}"))
    }
}

fn set(all: &[String], payload: &Bytes) -> anyhow::Result<String> {
    let text = std::str::from_utf8(payload)
        .context("the payload is not UTF-8, so that it has no paths; use --file")?;
    let mut text = text.to_owned();
    for one in all {
        let (path, value) = one
            .split_once('=')
            .with_context(|| format!("--set \"{one}\" has no =; write it as PATH=VALUE"))?;
        text = splice(&text, path, value)?;
    }
    Ok(text)
}

async fn in_editor(letter: u64, payload: &Bytes) -> anyhow::Result<EditedPayload> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = variable("VISUAL").or_else(|| variable("EDITOR"));
    let editor = editor.context(
        "there is no editor: set VISUAL or EDITOR, or say what to change with --set or --file",
    )?;
    let text = std::str::from_utf8(payload).ok();
    let indented = text.and_then(|text| respaced(text, true)).map(|text| text + "\n");
    let shown = indented.clone().map_or_else(|| payload.clone(), Bytes::from);
    let scratch = Scratch::new(letter, &shown)?;
    // As a shell reads it: an editor may have arguments.
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &format!("{editor} \"$@\""), &editor]).arg(&scratch.path);
    let status = command.status().await.with_context(|| format!("could not start \"{editor}\""))?;
    if !status.success() {
        bail!("the editor \"{editor}\" ended with {status}, so nothing was changed")
    }
    let typed = std::fs::read(&scratch.path).context("could not read what was typed")?;
    let body = if typed == shown {
        payload.clone()
    } else {
        let was_compact = text.is_some_and(|text| respaced(text, false).as_deref() == Some(text));
        let compact = std::str::from_utf8(&typed)
            .ok()
            .filter(|_| was_compact)
            .and_then(|typed| respaced(typed, false));
        let body = compact.map_or_else(|| Bytes::from(typed), Bytes::from);
        // Editors end a file with a line end.
        let ends = |body: &Bytes| body.last() == Some(&b'\n');
        if ends(&body) && !ends(payload) { body.slice(..body.len() - 1) } else { body }
    };
    Ok(EditedPayload { body, file: Some(scratch) })
}

/// A file that nobody else may read, gone when it is dropped.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(letter: u64, text: &[u8]) -> anyhow::Result<Self> {
        let path = std::env::temp_dir()
            .join(format!("millstream-letter-{letter}-{}.json", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| {
                format!("could not create \"{}\"", printable(&path.display().to_string()))
            })?;
        let scratch = Self { path, keep: false };
        file.write_all(text).context("could not write the payload to a file for the editor")?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            std::fs::remove_file(&self.path).ok();
        }
    }
}
