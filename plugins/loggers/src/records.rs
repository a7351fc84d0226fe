//! TFRecord files of TensorFlow `Event` messages: the framing, and as much of protobuf's writing side as an event needs.
//!
//! Field numbers are those of tensorflow/tensorboard, `compat/proto/{event,summary,tensor,histogram}.proto`.

/// One TFRecord: length, its checksum, data, its checksum; little-endian.
pub fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), data, &masked(crc32c(data)).to_le_bytes()].concat()
}

/// A checksum of data that may hold checksums; constant and rotation are TFRecord's.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), RFC 3720 appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            // 0x82f63b78 is Castagnoli's polynomial, lowest bit first.
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A protobuf message that is being written, field after field.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A whole number: int32, int64, an enum.
    pub fn integer(mut self, field: u32, value: u64) -> Message {
        self.key(field, 0);
        self.varint(value);
        self
    }

    /// A double.
    pub fn double(mut self, field: u32, value: f64) -> Message {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A float.
    pub fn float(mut self, field: u32, value: f32) -> Message {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Text, bytes or a packed field.
    pub fn bytes(mut self, field: u32, value: impl AsRef<[u8]>) -> Message {
        self.key(field, 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend(value.as_ref());
        self
    }

    /// A message.
    pub fn message(self, field: u32, value: Message) -> Message {
        self.bytes(field, value.0)
    }

    /// Doubles, packed.
    pub fn doubles(self, field: u32, values: impl IntoIterator<Item = f64>) -> Message {
        self.bytes(field, values.into_iter().flat_map(f64::to_le_bytes).collect::<Vec<u8>>())
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// `Event.file_version`: the first record of a file.
pub fn version_event(wall_time: f64) -> Message {
    Message::default().double(1, wall_time).bytes(3, "brain.Event:2")
}

/// `Event.session_log` with `START`: a reader drops everything of this step and later steps that it read before.
pub fn start_event(wall_time: f64, step: u64) -> Message {
    at(wall_time, step).message(7, Message::default().integer(1, 1))
}

/// `Event.summary` of these values.
pub fn summary_event(wall_time: f64, step: u64, values: impl IntoIterator<Item = Message>) -> Message {
    at(wall_time, step).message(5, values.into_iter().fold(Message::default(), |summary, value| summary.message(1, value)))
}

fn at(wall_time: f64, step: u64) -> Message {
    let event = Message::default().double(1, wall_time);
    // Protobuf leaves out what is 0.
    if step == 0 { event } else { event.integer(2, step) }
}

/// `Summary.Value.simple_value`: the old form of a scalar, which every reader knows.
pub fn scalar(tag: &str, value: f64) -> Message {
    Message::default().bytes(1, tag).float(2, value as f32)
}

/// `Summary.Value.image` of a PNG file. `channels`: 1 grey, 2 with alpha, 3 colours, 4 with alpha.
pub fn image(tag: &str, width: u32, height: u32, channels: u32, png: &[u8], caption: &str) -> Message {
    let image = Message::default().integer(1, height.into()).integer(2, width.into()).integer(3, channels.into()).bytes(4, png);
    let value = Message::default().bytes(1, tag).message(4, image);
    if caption.is_empty() { value } else { value.message(9, Message::default().bytes(3, caption)) }
}

/// `Summary.Value.histo`, from counts between `edges`.
///
/// Readers take `min` and `max` for the outer limits of the first and the last bin that holds something. The sums take each value for the middle of its
/// bin.
pub fn histogram(tag: &str, edges: &[f64], counts: &[u64]) -> Message {
    let bins = || edges.windows(2).zip(counts).map(|(bin, &count)| (bin[0], bin[1], count as f64));
    let filled = || bins().filter(|(_, _, count)| *count > 0.0);
    let sum = |power: i32| filled().map(|(low, high, count)| count * ((low + high) / 2.0).powi(power)).sum::<f64>();
    let histogram = Message::default()
        .double(1, filled().next().map_or(0.0, |(low, _, _)| low))
        .double(2, filled().next_back().map_or(0.0, |(_, high, _)| high))
        .double(3, bins().map(|(_, _, count)| count).sum())
        .double(4, sum(1))
        .double(5, sum(2))
        .doubles(6, bins().map(|(_, high, _)| high))
        .doubles(7, bins().map(|(_, _, count)| count));
    Message::default().bytes(1, tag).message(5, histogram)
}

/// `Summary.Value.tensor` with one string, for the text plugin, which reads it as Markdown.
pub fn text(tag: &str, text: &str) -> Message {
    const DT_STRING: u64 = 7;
    const DATA_CLASS_TENSOR: u64 = 2;
    let tensor = Message::default().integer(1, DT_STRING).message(2, Message::default()).bytes(8, text);
    let plugin = Message::default().bytes(1, "text");
    let metadata = Message::default().message(1, plugin).integer(4, DATA_CLASS_TENSOR);
    Message::default().bytes(1, tag).message(8, tensor).message(9, metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // Appendix B.4.
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(&descending), 0x113f_db5c);
        // The check value that catalogues of checksums give.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_file_is_as_worked_out_by_hand() {
        let events = [version_event(1.0), summary_event(1.5, 300, [scalar("a", 2.0)]), start_event(2.0, 7)];
        let file: Vec<u8> = events.into_iter().flat_map(|event| record(&event.into_bytes())).collect();
        #[rustfmt::skip]
        let wanted: &[&[u8]] = &[
            // 24 bytes follow; every event file that TensorFlow wrote begins with these twelve.
            b"\x18\0\0\0\0\0\0\0", b"\xa3\x7f\x4b\x22",
            b"\x09\0\0\0\0\0\0\xf0\x3f",          // field 1, fixed64: 1.0
            b"\x1a\x0dbrain.Event:2",             // field 3, 13 bytes
            b"\x86\xbf\x57\x7a",
            b"\x18\0\0\0\0\0\0\0", b"\xa3\x7f\x4b\x22",
            b"\x09\0\0\0\0\0\0\xf8\x3f",          // 1.5
            b"\x10\xac\x02",                      // field 2, varint: 300 = 2 * 128 + 44
            b"\x2a\x0a",                          // field 5, a summary of 10 bytes
            b"\x0a\x08",                          // its field 1, a value of 8 bytes
            b"\x0a\x01a", b"\x15\0\0\0\x40",      // tag "a"; field 2, fixed32: 2.0
            b"\x72\x2e\x38\xef",
            b"\x0f\0\0\0\0\0\0\0", b"\x6d\x53\x2b\x09",
            b"\x09\0\0\0\0\0\0\0\x40",            // 2.0
            b"\x10\x07", b"\x3a\x02\x08\x01",     // step 7; field 7, status START
            b"\xd1\x71\x5d\xcb",
        ];
        assert_eq!(file, wanted.concat());
    }

    #[test]
    fn empty_bins_at_both_ends_are_outside_of_min_and_max() {
        // Bins 0..1, 1..2, 2..4, 4..5 with 0, 2, 1, 0 values: between 1 and 4; sums 2 * 1.5 + 3 = 6 and 2 * 2.25 + 9 = 13.5.
        let message = histogram("h", &[0.0, 1.0, 2.0, 4.0, 5.0], &[0, 2, 1, 0]).into_bytes();
        let wanted = [(1, 1.0), (2, 4.0), (3, 3.0), (4, 6.0), (5, 13.5)];
        let wanted = wanted.into_iter().fold(Message::default(), |message, (field, value)| message.double(field, value));
        let wanted = wanted.doubles(6, [1.0, 2.0, 4.0, 5.0]).doubles(7, [0.0, 2.0, 1.0, 0.0]);
        assert_eq!(message, Message::default().bytes(1, "h").message(5, wanted).into_bytes());
    }
}
