//! Artefacts: what packagers take from the program: completions, man pages, its version.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap_complete::Shell;

use crate::broker::server;

const COMPLETIONS: &str = "\
Examples:
  millstream completions bash > /etc/bash_completion.d/millstream
  millstream completions zsh > ~/.zfunc/_millstream
  millstream completions fish > ~/.config/fish/completions/millstream.fish";

const MAN: &str = "\
Examples:
  millstream man --out /usr/local/share/man/man1
  millstream man | man -l -";

const VERSION: &str = "\
Examples:
  millstream version
  millstream version --json | jq -r .version";

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = MAN)]
pub struct ManArgs {
    /// Write a page for each command into this folder, which is made; else the first goes to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
#[command(after_help = VERSION)]
pub struct VersionArgs {
    /// JSON: version, system, and the nats-server that `dev` and `demo` start
    #[arg(long)]
    json: bool,
}

/// Prints the completions of a command line for a shell.
pub fn completions(mut cli: clap::Command, args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    let name = cli.get_name().to_owned();
    clap_complete::generate(args.shell, &mut cli, name, &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints the man page of a command line, or writes those of all of its commands.
pub fn man(mut cli: clap::Command, args: &ManArgs) -> anyhow::Result<ExitCode> {
    // Gives commands of commands their full names.
    cli.build();
    let Some(folder) = &args.out else {
        print!("{}", String::from_utf8_lossy(&page(&cli)?));
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("could not make the folder \"{}\"", folder.display()))?;
    let written = write_pages(&cli, folder)?;
    eprintln!("wrote {written} man pages into {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// Prints the version.
pub fn version(args: &VersionArgs) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        let told = serde_json::json!({
            "version": version,
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "natsServer": server::VERSION,
        });
        println!("{told:#}");
    } else {
        println!("millstream {version}");
    }
    ExitCode::SUCCESS
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

fn write_pages(command: &clap::Command, folder: &Path) -> anyhow::Result<usize> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.1"));
    let written = page(command).and_then(|page| std::fs::write(&path, page));
    written.with_context(|| format!("could not write \"{}\"", path.display()))?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.map(|below| write_pages(below, folder)).try_fold(1, |sum, more| Ok(sum + more?))
}
