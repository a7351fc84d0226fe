//! Host-visible buffers that carry inputs in and outputs out: rings made once a program, so that a step allocates nothing.
//!
//! wgpu's `queue.write_buffer` makes a new buffer at each call (1.4 ms for 1 MiB on llvmpipe), hence these. A buffer is either mapped (ours) or unmapped
//! (the device's); it changes hands at submission and comes back, mapped again, when that submission is done and somebody has polled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One host-visible buffer.
pub struct Staging {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    mode: wgpu::MapMode,
    is_mapped: Arc<AtomicBool>,
}

impl Staging {
    /// A buffer for bytes on their way to the device, mapped.
    pub fn upload(device: &wgpu::Device, bytes: usize) -> Staging {
        Staging::new(device, bytes, wgpu::MapMode::Write, wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC)
    }

    /// A buffer for bytes on their way back, not mapped.
    pub fn readback(device: &wgpu::Device, bytes: usize) -> Staging {
        Staging::new(device, bytes, wgpu::MapMode::Read, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    fn new(device: &wgpu::Device, bytes: usize, mode: wgpu::MapMode, usage: wgpu::BufferUsages) -> Staging {
        let is_upload = mode == wgpu::MapMode::Write;
        let size = bytes.next_multiple_of(4).max(4) as u64;
        let label = if is_upload { "upload" } else { "readback" };
        let buffer = device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: is_upload });
        Staging { buffer, mode, is_mapped: Arc::new(AtomicBool::new(is_upload)) }
    }

    /// True when the host may touch the bytes.
    pub fn is_mapped(&self) -> bool {
        self.is_mapped.load(Ordering::Acquire)
    }

    /// Fills the parts, one after the other at the given offsets, and hands the buffer to the device.
    pub fn write(&self, parts: impl Iterator<Item = (usize, impl AsRef<[u8]>)>) -> Result<(), String> {
        let mut view = self.buffer.slice(..).get_mapped_range_mut().map_err(|error| error.to_string())?;
        for (offset, bytes) in parts {
            let bytes = bytes.as_ref();
            view.slice(offset..offset + bytes.len()).copy_from_slice(bytes);
        }
        drop(view);
        self.release();
        Ok(())
    }

    /// Calls `read` with all bytes and hands the buffer to the device.
    pub fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Result<T, String> {
        let view = self.buffer.slice(..).get_mapped_range().map_err(|error| error.to_string())?;
        let value = read(&view);
        drop(view);
        self.release();
        Ok(value)
    }

    fn release(&self) {
        self.is_mapped.store(false, Ordering::Release);
        self.buffer.unmap();
    }

    /// Asks for the buffer back when the work of `encoder` is done.
    pub fn map_after(&self, encoder: &wgpu::CommandEncoder) {
        let is_mapped = self.is_mapped.clone();
        encoder.map_buffer_on_submit(&self.buffer, self.mode, .., move |result| is_mapped.store(result.is_ok(), Ordering::Release));
    }
}
