//! Pages in a real browser, where there is one: no complaint on the console, every chart drawn, nothing fetched.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];

/// Looks at a page in dark and light, wide and narrow: it complains of nothing, holds all of `parts` and does not scroll
/// sideways.
pub(crate) fn check(page: &Path, parts: &[&str]) {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = BROWSERS.iter().find(is_there) else {
        // Past the test runner, which swallows what passing tests print.
        let _ = writeln!(io::stderr(), "SKIP browser: none of {BROWSERS:?} is installed, no page was tried");
        return;
    };
    // What a script sees of the width, for the test to read: a page that is wider than its window scrolls sideways.
    let text = fs::read_to_string(page).unwrap();
    let script =
        "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script>";
    let measured = page.with_file_name("measured.html");
    fs::write(&measured, text.replace("</body>", &format!("{script}</body>"))).unwrap();
    // 500 pixels are as narrow as Chromium's windows get.
    for (scheme, width) in [("0", 1280), ("1", 500)] {
        let (dom, complaints) = open(browser, &measured, scheme, width);
        assert!(complaints.is_empty(), "{complaints:?}");
        for part in parts {
            assert!(dom.contains(part), "{part} is not on the page");
        }
        let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).unwrap().0;
        let (needs, has) = title.split_once(" of ").unwrap();
        assert!(needs.parse::<usize>().unwrap() <= has.parse().unwrap(), "scrolls sideways: {title}");
        assert!(has.parse::<usize>().unwrap() <= width, "{title}");
    }
    fs::remove_file(measured).unwrap();
}

/// Opens a page: what became of it, and what the browser complained of.
fn open(browser: &str, page: &Path, scheme: &str, width: usize) -> (String, Vec<String>) {
    let data = page.with_file_name("browser");
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", data.display()))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--window-size={width},900"))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{browser} failed: {log}");
    let complaints = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    (String::from_utf8_lossy(&output.stdout).into_owned(), complaints)
}
