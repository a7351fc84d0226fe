//! Clocks, host and process identity: is the process that wrote a heartbeat still there?

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall time in seconds since 1970 (UTC), the clock of every `time` column.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// `2026-11-23-1859` (UTC) for a time in seconds since 1970.
pub fn minute_stamp(time: f64) -> String {
    let minutes = (time.max(0.0) / 60.0) as i64;
    let (days, minute_of_day) = (minutes / 1440, minutes % 1440);
    // Civil date from a day count, after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}-{:02}{:02}", minute_of_day / 60, minute_of_day % 60)
}

/// Name of this machine; `unknown` where the system does not say.
pub(crate) fn host_name() -> String {
    #[cfg(unix)]
    {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }
    #[cfg(not(unix))]
    {
        std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_string())
    }
}

/// When process `pid` started, in clock ticks since boot, where the system tells (Linux). Guards against a reused process id.
pub(crate) fn process_start_ticks(pid: u32) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold spaces: count from the last bracket.
    // Field 22 of `man 5 proc` is then the 20th after it.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// It has ended and waits for a parent that does not look, as the first process of many containers does not.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').is_some_and(|bracket| stat[bracket + 1..].trim_start().starts_with(['Z', 'X']))
}

/// Is `pid` (started at `start_ticks`, where known) a process of this machine? `None` where the system cannot say.
pub(crate) fn process_is_alive(pid: u32, start_ticks: Option<i64>) -> Option<bool> {
    if is_zombie(pid) {
        return Some(false);
    }
    if let (Some(recorded), Some(found)) = (start_ticks, process_start_ticks(pid)) {
        return Some(recorded == found);
    }
    #[cfg(unix)]
    {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        Some(match rustix::process::test_kill_process(pid) {
            Ok(()) => true,
            // It exists and belongs to somebody else.
            Err(rustix::io::Errno::PERM) => true,
            Err(_) => false,
        })
    }
    #[cfg(not(unix))]
    {
        None
    }
}

/// Sixteen random bits as four hex digits, to tell apart runs that start within one minute. Not for anything secret.
pub(crate) fn random_suffix() -> String {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u64(now().to_bits());
    format!("{:04x}", hasher.finish() & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minute_stamps_of_known_dates() {
        // Values from `date -u -d @N +%Y-%m-%d-%H%M`.
        assert_eq!(minute_stamp(0.0), "1970-01-01-0000");
        assert_eq!(minute_stamp(951_827_696.0), "2000-02-29-1234");
        assert_eq!(minute_stamp(1_795_460_340.0), "2026-11-23-1859");
    }

    #[test]
    fn this_process_is_alive_and_an_impossible_one_is_not() {
        let me = std::process::id();
        assert_ne!(process_is_alive(me, process_start_ticks(me)), Some(false));
        if let Some(ticks) = process_start_ticks(me) {
            assert_eq!(process_is_alive(me, Some(ticks + 1)), Some(false), "a reused process id is another process");
        }
        #[cfg(unix)]
        assert_eq!(process_is_alive(0x3fff_ffff, None), Some(false));
    }
}
