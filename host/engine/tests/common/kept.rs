//! What devices keep, in memory.

use solstice_engine::DeviceCache;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A cache in memory.
#[derive(Default)]
pub struct Kept(pub Mutex<BTreeMap<String, Vec<u8>>>);

impl DeviceCache for Kept {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().expect("nobody panics with it").get(name).cloned()
    }

    fn save(&self, name: &str, bytes: &[u8]) {
        self.0.lock().expect("nobody panics with it").insert(name.to_owned(), bytes.to_vec());
    }
}
