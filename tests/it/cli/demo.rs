//! Demo: `demo` ends well, and leaves no server behind.

use std::path::Path;

use crate::shell::Shell;

/// Processes that name a folder in their arguments: servers with their data there.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[tokio::test]
async fn the_demo_ends_well_its_totals_add_up_and_no_server_is_left_behind() {
    let shell = Shell::new("", "");
    let data = shell.path().join("data");
    let ran = shell.run(&format!("demo --events 300 --data {}", data.display())).await;
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    let totals = ran.out.lines().find(|line| line.contains(" done + ")).unwrap();
    let numbers: Vec<u64> =
        totals.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [published, done, dead, pending] = numbers.as_slice() else { panic!("{totals}") };
    assert_eq!((*published, *published), (300, done + dead + pending), "{totals}");
    assert!(*dead > 0, "{totals}");
    for heading in ["The pipeline", "Totals", "Try next"] {
        assert!(ran.out.contains(heading), "no {heading} in\n{}", ran.out);
    }
    if cfg!(target_os = "linux") {
        assert_eq!(processes_of(&data), Vec::<String>::new());
    }
}
