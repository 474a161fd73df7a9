//! World: folders, channels and handlers that a stage may ask for while it is built.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_stages::{ChannelTerms, Handler, Problem, World};
use serde_json::Value;

use super::{HandlerBuilder, io_words};
use crate::{
    bounded_file,
    limits::{FOLDER_BYTES_MAX, FOLDER_DEPTH_MAX, FOLDER_FILE_BYTES_MAX, FOLDER_FILES_MAX},
};

/// World of the stages of one `pipeline.toml`: folders next to it, its channels, and the handlers
/// that can be built.
pub struct ConfigWorld<'a> {
    /// The folder that relative paths start from.
    pub base: &'a Path,
    /// Builder of a handler from its table.
    pub handler: &'a HandlerBuilder,
    /// The channels.
    pub channels: &'a [ChannelTerms],
}

impl std::fmt::Debug for ConfigWorld<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigWorld")
            .field("base", &self.base)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

impl World for ConfigWorld<'_> {
    fn folder(&self, path: &str) -> Result<Vec<(String, String)>, String> {
        let root = self.base.join(path);
        let mut files = Vec::new();
        find(&root, path, 0, &mut files)?;
        files.sort();
        let mut bytes = 0;
        let mut texts = Vec::with_capacity(files.len());
        for file in files {
            let relative =
                file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            let wrong = |error: std::io::Error| {
                format!("could not read \"{path}/{relative}\": {}", io_words(&error))
            };
            let text = bounded_file::read(&file, FOLDER_FILE_BYTES_MAX).map_err(wrong)?;
            bytes += text.len() as u64;
            if bytes > FOLDER_BYTES_MAX {
                return Err(format!(
                    "the files in \"{path}\" are larger than {} MiB together",
                    FOLDER_BYTES_MAX >> 20
                ));
            }
            texts.push((relative, String::from_utf8_lossy(&text).into_owned()));
        }
        Ok(texts)
    }

    fn handler(&self, options: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>> {
        (self.handler)(options, self.base)
    }

    fn channels(&self) -> Vec<ChannelTerms> {
        self.channels.to_vec()
    }
}

/// Adds the `.json` files below `folder` to `files`; hidden ones are passed over.
fn find(folder: &Path, name: &str, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let wrong = |error: std::io::Error| {
        format!("could not read the folder \"{name}\": {}", io_words(&error))
    };
    if depth > FOLDER_DEPTH_MAX {
        return Err(format!(
            "\"{name}\" has folders more than {FOLDER_DEPTH_MAX} deep; does a link lead back?"
        ));
    }
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            find(&path, name, depth + 1, files)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
        if files.len() > FOLDER_FILES_MAX {
            return Err(format!("the folder \"{name}\" has more than {FOLDER_FILES_MAX} files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_json_files_in_order_and_says_why_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.json", "a/c.json", "note.txt", ".hidden.json"] {
            let path = folder.path().join("schemas").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let world =
            ConfigWorld { base: folder.path(), handler: &|_, _| Err(vec![]), channels: &[] };
        let names: Vec<String> =
            world.folder("schemas").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a/c.json", "b.json"]);
        assert_eq!(
            world.folder("none").unwrap_err(),
            "could not read the folder \"none\": there is no such file"
        );
    }
}
