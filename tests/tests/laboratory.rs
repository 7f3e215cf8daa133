//! The laboratory itself: several at once, one that crashed, one that was interrupted; nothing is ever left behind.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weir_tests::programs;

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::path("weir"));
    command.arg("lab").args(arguments).env("WEIR_EBPF", weir_tests::prog_run::object_path());
    command
}

fn done(command: &mut Command) -> Output {
    let output = command.output().expect("start weir");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn status(name: &str) -> Value {
    serde_json::from_slice(&done(&mut lab(&["status", "--name", name, "-o", "json"])).stdout).expect("JSON")
}

/// Ends what a failed test left up.
struct Ends(String);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = lab(&["down", "--name", &self.0]).output();
    }
}

/// Everything that carries the name of a laboratory, processes included.
fn traces(name: &str) -> Vec<String> {
    let prefix = format!("weir-{name}-");
    let mut found = Vec::new();
    for (dir, begins) in [("/run/netns", &*prefix), ("/sys/fs/bpf", &*prefix), ("/run/weir-lab", name)] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(begins) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let directory = format!("/run/weir-lab/{name}/");
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(&directory) {
            found.push(words);
        }
    }
    found
}

fn wait_until_nothing_is_left_of(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !traces(name).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:#?}", traces(name));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pid_of(name: &str) -> Pid {
    Pid::from_raw(status(name)["pid"].as_i64().expect("pid") as i32)
}

fn unique(what: &str) -> String {
    format!("{what}{}", std::process::id())
}

#[test]
fn two_laboratories_stand_side_by_side_and_end_without_a_trace() {
    let names = [unique("a"), unique("b")];
    let _ends = names.clone().map(Ends);
    let starting = names
        .clone()
        .map(|name| std::thread::spawn(move || done(&mut lab(&["up", "--detach", "--name", &name]))));
    for start in starting {
        start.join().expect("up");
    }
    for name in &names {
        let status = status(name);
        assert_eq!(status["zones"].as_array().expect("zones").len(), 3);
        let seconds = status["times"]["ready"].as_f64().expect("seconds");
        println!("{name} was ready after {seconds:.2} s");
        assert!(traces(name).len() > 22, "{:?}", traces(name));
    }
    for name in &names {
        done(&mut lab(&["down", "--name", name]));
        assert_eq!(traces(name), Vec::<String>::new());
    }
}

#[test]
fn a_crashed_laboratory_is_taken_away_by_the_next() {
    let (crashed, next) = (unique("c"), unique("d"));
    let _ends = [&crashed, &next].map(|name| Ends(name.clone()));
    done(&mut lab(&["up", "--detach", "--name", &crashed]));
    kill(pid_of(&crashed), Signal::SIGKILL).expect("kill the laboratory");
    let zones = ["--zones", "2"];
    done(lab(&["up", "--detach", "--name", &next]).args(zones));
    wait_until_nothing_is_left_of(&crashed);
    done(&mut lab(&["down", "--name", &next]));
    assert_eq!(traces(&next), Vec::<String>::new());
}

#[test]
fn a_signal_ends_a_laboratory_in_good_order_even_while_it_is_built() {
    let name = unique("e");
    let _ends = Ends(name.clone());
    done(&mut lab(&["up", "--detach", "--name", &name]));
    kill(pid_of(&name), Signal::SIGTERM).expect("ask the laboratory to end");
    wait_until_nothing_is_left_of(&name);

    let mut building = lab(&["up", "--name", &name]).spawn().expect("start weir");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !Path::new("/run/weir-lab").join(&name).exists() {
        assert!(Instant::now() < deadline, "does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(building.id() as i32), Signal::SIGINT).expect("interrupt the building");
    building.wait().expect("end of the building");
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn what_was_killed_shows_and_what_was_restored_returns() {
    let name = unique("f");
    let _ends = Ends(name.clone());
    done(&mut lab(&["up", "--detach", "--name", &name]));
    done(&mut lab(&["kill", "--name", &name, "az1:servers"]));
    let serving = |status: &Value, server: &str| status["zones"][0]["backends"][server]["serving"].clone();
    assert_eq!(serving(&status(&name), "z1be1"), Value::Bool(false));
    done(&mut lab(&["restore", "--name", &name]));
    assert_eq!(serving(&status(&name), "z1be1"), Value::Bool(true));
    let wrong = lab(&["kill", "--name", &name, "az9"]).output().expect("start weir");
    assert!(!wrong.status.success());
    done(&mut lab(&["down", "--name", &name]));
}
