//! A picture of a few moments: tracks of events, as a file in the Trace Event Format, which <https://ui.perfetto.dev> and chrome://tracing open.
//!
//! Complete events (`ph: X`, microseconds) and the names of process and tracks as metadata (`ph: M`); nothing else of the format.
//! Source: "Trace Event Format", Google, 2016.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Events that come one after the other.
pub struct Track {
    /// What the viewer calls it.
    pub name: String,
    /// Category of its events.
    pub category: &'static str,
    /// In any order.
    pub events: Vec<Event>,
}

/// Something that took time.
pub struct Event {
    /// What stands on it.
    pub name: String,
    /// When it began.
    pub start: Instant,
    /// How long it took.
    pub time: Duration,
    /// What the viewer shows when it is chosen: an object.
    pub details: Value,
}

/// The file's contents; time 0 is the first event. On one track an event that began before the one ahead of it had ended begins there instead: clocks of
/// two chips never agree to the last tick.
pub fn trace(process: &str, tracks: Vec<Track>, about: Value) -> Value {
    const PROCESS: u32 = 1;
    let origin = tracks.iter().flat_map(|track| &track.events).map(|event| event.start).min();
    let meta = |thread: usize, kind: &str, what: Value| json!({"ph": "M", "pid": PROCESS, "tid": thread, "name": kind, "args": what});
    let mut events = vec![meta(0, "process_name", json!({ "name": process }))];
    for (index, mut track) in tracks.into_iter().enumerate() {
        let thread = index + 1;
        events.push(meta(thread, "thread_name", json!({ "name": track.name })));
        events.push(meta(thread, "thread_sort_index", json!({ "sort_index": thread })));
        track.events.sort_by_key(|event| event.start);
        let mut free = 0;
        for event in track.events {
            let began = origin.map_or(Duration::ZERO, |origin| event.start - origin);
            let (start, end) = ((began.as_nanos() as u64).max(free), ((began + event.time).as_nanos() as u64).max(free));
            free = end;
            let micros = |nanos: u64| nanos as f64 / 1e3;
            events.push(json!({
                "ph": "X", "pid": PROCESS, "tid": thread, "cat": track.category, "name": event.name,
                "ts": micros(start), "dur": micros(end - start), "args": event.details,
            }));
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms", "otherData": about })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_track_stand_one_after_the_other_from_zero() {
        let start = Instant::now();
        let event = |name: &str, from: u64, to: u64| Event {
            name: name.into(),
            start: start + Duration::from_micros(from),
            time: Duration::from_micros(to - from),
            details: json!({ "step": 1 }),
        };
        let loop_track = Track { name: "loop".into(), category: "loop", events: vec![event("b", 15, 20), event("a", 10, 15)] };
        // The second begins a little too early, the third is over before the second is.
        let device =
            Track { name: "device".into(), category: "kernel", events: vec![event("x", 12, 15), event("y", 14, 18), event("z", 16, 17)] };
        let file = trace("test", vec![loop_track, device], json!({}));
        let complete: Vec<(u64, &str, f64, f64)> = file["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                let number = |key: &str| event[key].as_f64().unwrap();
                (event["tid"].as_u64().unwrap(), event["name"].as_str().unwrap(), number("ts"), number("dur"))
            })
            .collect();
        let wanted = [(1, "a", 0.0, 5.0), (1, "b", 5.0, 5.0), (2, "x", 2.0, 3.0), (2, "y", 5.0, 3.0), (2, "z", 8.0, 0.0)];
        assert_eq!(complete, wanted);
    }
}
