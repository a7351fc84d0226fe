//! What a run says of itself so that a window can steer it, and a reload on request.

mod common;

use common::{Desk, recipe};
use serde_json::{Value, json};
use solstice_store::{Event, RunReader, RunState, send_command, wait_command};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// No limit of its own: the test runner's holds.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn events(folder: &Path, kind: &str) -> Vec<Event> {
    let events = RunReader::open(folder).unwrap().events_since(0).unwrap();
    events.into_iter().filter(|event| event.kind == kind).collect()
}

fn setting(told: &Event, key: &str) -> Value {
    let settings = told.new.as_ref().unwrap()["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).cloned().unwrap_or_else(|| panic!("{key} is not in {settings:?}"))
}

#[test]
fn a_run_names_its_live_values_and_takes_its_plugins_in_again_when_asked() {
    let desk = Desk::new();
    let mut command = vec!["train", "--quiet", "--device", "cpu"];
    let recipe = recipe("digits.ron");
    let settings = [
        "trainer.budget=1000000st",
        "schedule=constant",
        "optimizer.lr=0.05",
        "trainer.clip=norm(1.0)",
        r#"trainer.groups=[(params: ".*", rank_max: 1, lr: 0.5)]"#,
        "model=convnet(channels: [4, 8], dense: 16)",
        "dataset.train=256",
        "dataset.test=64",
    ];
    command.push(&recipe);
    for setting in settings {
        command.extend(["--set", setting]);
    }
    let child = desk.command(&command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = wait_for(|| desk.newest_run().filter(|folder| !events(folder, "live").is_empty()));
    let told = events(&folder, "live").remove(0);
    let lr = setting(&told, "optimizer.lr");
    assert!((lr["value"].as_f64().unwrap() - 0.05).abs() < 1e-6, "{lr}");
    assert!(lr["doc"].as_str().is_some_and(|doc| !doc.is_empty()), "{lr}");
    assert_eq!(setting(&told, "trainer.clip")["value"], json!(1.0));
    assert_eq!(
        (setting(&told, "trainer.groups.0.lr")["value"].as_f64(), setting(&told, "trainer.groups.0.lr")["minimum"].as_f64()),
        (Some(0.5), Some(0.0))
    );
    assert_eq!(setting(&told, "trainer.budget")["value"], json!("1000000st"));
    assert_eq!(told.new.as_ref().unwrap()["reloads"], json!(true));
    // The recipe is stored as it was, for resume and fork.
    assert_eq!(RunReader::open(&folder).unwrap().info().unwrap().config.get("live"), None);

    let answer = |kind: &str, args: Value| {
        let id = send_command(&folder, "me", kind, &args).unwrap();
        wait_command(&folder, id, Duration::from_secs(600)).unwrap()
    };
    answer("set", json!({ "key": "optimizer.lr", "value": 0.02 }));
    let asked = answer("reload", json!({}));
    assert_eq!(asked.state, solstice_store::CommandState::Done, "{asked:?}");
    let reloaded = wait_for(|| events(&folder, "reload").into_iter().find(|event| event.message.starts_with("plugins reloaded")));
    // The new process says anew what holds, and trains on from the step of the one before.
    let again = wait_for(|| events(&folder, "live").into_iter().nth(1));
    assert!((setting(&again, "optimizer.lr")["value"].as_f64().unwrap() - 0.02).abs() < 1e-6);
    assert!(again.step > 0 && again.step <= reloaded.step, "{} and {}", again.step, reloaded.step);
    wait_for(|| (RunReader::open(&folder).unwrap().info().unwrap().at.step > reloaded.step + 2).then_some(()));
    answer("stop", json!({}));
    let ran = common::ran(child.wait_with_output().unwrap());
    assert_eq!(RunReader::open(&folder).unwrap().info().unwrap().state, RunState::Stopped, "{}", ran.err);
}
