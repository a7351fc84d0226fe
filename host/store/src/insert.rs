//! Rows to SQL: what one transaction of the writer thread does, and the running last and best values of each metric.

use std::sync::Arc;

use rusqlite::{Connection, Statement, Transaction, TransactionBehavior, params};
use serde_json::Value;

use crate::process::now;
use crate::queue::{Batch, Control, Media};
use crate::read;
use crate::rows::{At, CheckpointRow, Event, MetricKind, PluginInfo, json_from_metrics};

/// A metric as the writer thread knows it; `id` once it has a row.
#[derive(Clone, Debug)]
pub(crate) struct MetricRow {
    pub id: Option<i64>,
    pub kind: MetricKind,
    pub name: Arc<str>,
    pub count: u64,
    pub last: f64,
    pub last_step: u64,
    pub min: Option<(f64, u64)>,
    pub max: Option<(f64, u64)>,
    pub changed: bool,
}

impl MetricRow {
    pub fn new(kind: MetricKind, name: Arc<str>) -> MetricRow {
        MetricRow { id: None, kind, name, count: 0, last: f64::NAN, last_step: 0, min: None, max: None, changed: true }
    }

    fn clear(&mut self) {
        *self = MetricRow { id: self.id, ..MetricRow::new(self.kind, self.name.clone()) };
    }

    fn add(&mut self, step: u64, value: f64) {
        self.count += 1;
        self.last = value;
        self.last_step = step;
        self.changed = true;
        if value.is_nan() {
            return;
        }
        if self.min.is_none_or(|(min, _)| value < min) {
            self.min = Some((value, step));
        }
        if self.max.is_none_or(|(max, _)| value > max) {
            self.max = Some((value, step));
        }
    }
}

/// One transaction. Returns how many rows SQLite refused for what they are (too large, say): those are not tried again.
pub(crate) fn write_batch(
    connection: &mut Connection,
    metrics: &mut [MetricRow],
    batch: &Batch,
    beat_secs: Option<f64>,
) -> rusqlite::Result<u64> {
    let mut refused = 0;
    let mut keep = |outcome: rusqlite::Result<()>| match outcome {
        Err(error) if is_row_fault(&error) => {
            refused += 1;
            Ok(())
        }
        other => other,
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for control in &batch.control {
        keep(write_control(&transaction, metrics, control))?;
    }
    {
        let mut insert_metric = transaction.prepare_cached("INSERT INTO metrics (name, kind) VALUES (?1, ?2)")?;
        let mut insert = transaction
            .prepare_cached("INSERT INTO scalars (metric_id, step, epoch, samples, time, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for row in &batch.scalars {
            let metric = &mut metrics[row.metric_index as usize];
            let metric_id = metric_id(metric, &transaction, &mut insert_metric)?;
            // SQLite stores NaN as NULL: that is how it is read back.
            let (step, samples) = (sql_integer(row.at.step), sql_integer(row.at.samples));
            keep(insert.execute(params![metric_id, step, row.at.epoch, samples, row.time, row.value]).map(drop))?;
            metric.add(row.at.step, row.value);
        }
        for row in &batch.media {
            let metric = &mut metrics[row.metric_index as usize];
            let metric_id = metric_id(metric, &transaction, &mut insert_metric)?;
            keep(write_media(&transaction, metric_id, row.at, row.time, &row.item))?;
            metric.add(row.at.step, f64::NAN);
        }
    }
    if !batch.logs.is_empty() {
        let mut insert = transaction.prepare_cached("INSERT INTO logs (time, level, source, message) VALUES (?1, ?2, ?3, ?4)")?;
        for line in &batch.logs {
            keep(insert.execute(params![line.time, line.level, line.source, line.message]).map(drop))?;
        }
    }
    for event in &batch.events {
        keep(write_event(&transaction, event))?;
    }
    if let Some((at, time)) = batch.progress {
        transaction
            .prepare_cached("UPDATE run SET step = ?1, epoch = coalesce(?2, epoch), samples = ?3, progress_time = ?4")?
            .execute(params![sql_integer(at.step), at.epoch, sql_integer(at.samples), time])?;
    }
    {
        let mut update = transaction.prepare_cached(
            "UPDATE metrics SET count = ?2, last = ?3, last_step = ?4, min = ?5, min_step = ?6, max = ?7, max_step = ?8 WHERE id = ?1",
        )?;
        for metric in metrics.iter_mut().filter(|metric| metric.changed) {
            let (Some(id), Ok(count)) = (metric.id, i64::try_from(metric.count)) else { continue };
            let last_step = (metric.count > 0).then(|| sql_integer(metric.last_step));
            let (min, min_step) = metric.min.map(|(value, step)| (value, sql_integer(step))).unzip();
            let (max, max_step) = metric.max.map(|(value, step)| (value, sql_integer(step))).unzip();
            update.execute(params![id, count, metric.last, last_step, min, min_step, max, max_step])?;
            metric.changed = false;
        }
    }
    if let Some(secs) = beat_secs {
        transaction.prepare_cached("UPDATE heartbeat SET time = ?1")?.execute([now()])?;
        transaction.prepare_cached("UPDATE run SET train_secs = train_secs + ?1")?.execute([secs])?;
    }
    transaction.commit()?;
    Ok(refused)
}

/// The row itself is at fault, so trying again cannot help.
fn is_row_fault(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    match error {
        rusqlite::Error::ToSqlConversionFailure(_) => true,
        other => matches!(other.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch)),
    }
}

fn metric_id(metric: &mut MetricRow, transaction: &Transaction, insert: &mut Statement) -> rusqlite::Result<i64> {
    if let Some(id) = metric.id {
        return Ok(id);
    }
    insert.execute(params![&*metric.name, metric.kind.name()])?;
    let id = transaction.last_insert_rowid();
    metric.id = Some(id);
    Ok(id)
}

fn write_media(transaction: &Transaction, metric_id: i64, at: At, time: f64, item: &Media) -> rusqlite::Result<()> {
    let step = sql_integer(at.step);
    let json = |value: Value| value.to_string();
    match item {
        Media::Histogram(histogram) => transaction
            .prepare_cached("INSERT INTO histograms (metric_id, step, epoch, time, edges, counts, not_finite) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                metric_id,
                step,
                at.epoch,
                time,
                json(histogram.edges.clone().into()),
                json(histogram.counts.clone().into()),
                sql_integer(histogram.not_finite)
            ])?,
        Media::Image(image) => transaction
            .prepare_cached(
                "INSERT INTO images (metric_id, step, epoch, time, format, width, height, caption, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![metric_id, step, at.epoch, time, image.format, image.width, image.height, image.caption, image.data])?,
        Media::Text(text) => transaction
            .prepare_cached("INSERT INTO texts (metric_id, step, epoch, time, text) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![metric_id, step, at.epoch, time, text])?,
        Media::Table(table) => transaction
            .prepare_cached("INSERT INTO tables (metric_id, step, epoch, time, columns, rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![metric_id, step, at.epoch, time, json(table.columns.clone().into()), json(table.rows.clone().into())])?,
        Media::Matrix(matrix) => transaction
            .prepare_cached(
                "INSERT INTO matrices (metric_id, step, epoch, time, row_labels, column_labels, cells) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                metric_id,
                step,
                at.epoch,
                time,
                json(matrix.row_labels.clone().into()),
                json(matrix.column_labels.clone().into()),
                json(matrix.cells.clone().into())
            ])?,
    };
    Ok(())
}

fn write_event(transaction: &Transaction, event: &Event) -> rusqlite::Result<()> {
    let json = |value: &Option<Value>| value.as_ref().map(Value::to_string);
    transaction
        .prepare_cached(
            "INSERT INTO events (time, step, kind, who, message, old, new, command_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            event.time,
            sql_integer(event.step),
            event.kind,
            event.who,
            event.message,
            json(&event.old),
            json(&event.new),
            event.command_id
        ])?;
    Ok(())
}

fn write_control(transaction: &Transaction, metrics: &mut [MetricRow], control: &Control) -> rusqlite::Result<()> {
    match control {
        Control::State { state, reason, time } => {
            transaction.execute("UPDATE run SET state = ?1, state_reason = ?2, state_time = ?3", params![state.name(), reason, time])?;
        }
        Control::Update(update) => {
            transaction.execute(
                "UPDATE run SET config = coalesce(?1, config), command_line = coalesce(?2, command_line), device = coalesce(?3, device),
                 adapter = coalesce(?4, adapter), shaders_hash = coalesce(?5, shaders_hash), budget = coalesce(?6, budget),
                 steps_total = coalesce(?7, steps_total), steps_per_epoch = coalesce(?8, steps_per_epoch)",
                params![
                    update.config.as_ref().map(Value::to_string),
                    update.command_line,
                    update.device,
                    update.adapter,
                    update.shaders_hash,
                    update.budget,
                    update.steps_total.map(sql_integer),
                    update.steps_per_epoch.map(sql_integer)
                ],
            )?;
        }
        Control::Plugins(plugins) => write_plugins(transaction, plugins)?,
        Control::Checkpoint(row) => index_checkpoint(transaction, row)?,
        Control::PinCheckpoint { file, pinned } => {
            transaction.execute("UPDATE checkpoints SET pinned = ?2 WHERE file = ?1", params![file, pinned])?;
        }
        Control::RemoveCheckpoint { file } => {
            transaction.execute("DELETE FROM checkpoints WHERE file = ?1", [file])?;
        }
        Control::CommandTaken { id, time } => {
            transaction
                .execute("UPDATE commands SET state = 'taken', taken_time = ?2 WHERE id = ?1 AND state = 'sent'", params![id, time])?;
        }
        Control::CommandAnswered { id, done, reason, time } => {
            let state = if *done { "done" } else { "failed" };
            transaction.execute(
                "UPDATE commands SET state = ?2, reason = ?3, answered_time = ?4 WHERE id = ?1",
                params![id, state, reason, time],
            )?;
        }
        Control::Rewind { step, time } => rewind(transaction, metrics, *step, *time)?,
    }
    Ok(())
}

pub(crate) fn write_plugins(connection: &Connection, plugins: &[PluginInfo]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM plugins", [])?;
    for plugin in plugins {
        connection.execute(
            "INSERT INTO plugins (name, version, hash, path, provides) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![plugin.name, plugin.version, plugin.hash, plugin.path, Value::from(plugin.provides.clone()).to_string()],
        )?;
    }
    Ok(())
}

pub(crate) fn index_checkpoint(connection: &Connection, row: &CheckpointRow) -> rusqlite::Result<()> {
    // A checkpoint of the same step replaces the file, so it replaces the row; a pin set on it stays, and so does the promise to keep it for ever.
    connection.execute(
        "INSERT INTO checkpoints (file, step, epoch, position, samples, time, bytes, sha256, metrics, reason, pinned)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (file) DO UPDATE SET step = excluded.step, epoch = excluded.epoch, position = excluded.position, samples = excluded.samples,
         time = excluded.time, bytes = excluded.bytes, sha256 = excluded.sha256, metrics = excluded.metrics,
         reason = iif(reason = 'every' AND NOT abandoned, reason, excluded.reason),
         pinned = max(pinned, excluded.pinned), abandoned = 0",
        params![
            row.file,
            sql_integer(row.at.step),
            finite_or_zero(row.at.epoch),
            sql_integer(row.position),
            sql_integer(row.at.samples),
            row.time,
            sql_integer(row.bytes),
            row.sha256,
            json_from_metrics(&row.metrics),
            row.reason,
            row.pinned
        ],
    )?;
    Ok(())
}

fn rewind(transaction: &Transaction, metrics: &mut [MetricRow], step: u64, time: f64) -> rusqlite::Result<()> {
    let step_sql = sql_integer(step);
    transaction.execute(
        "INSERT INTO rewinds (time, step, scalar_id) VALUES (?1, ?2, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'scalars'), 0))",
        params![time, step_sql],
    )?;
    for table in ["scalars", "histograms", "images", "texts", "tables", "matrices"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE step > ?1"), [step_sql])?;
    }
    transaction.execute("UPDATE checkpoints SET abandoned = 1 WHERE step > ?1", [step_sql])?;
    transaction.execute("UPDATE run SET step = min(step, ?1)", [step_sql])?;
    // Last and best values are those of the rows that are left: one pass in the order they were written.
    let mut by_id = std::collections::HashMap::new();
    for metric in metrics.iter_mut() {
        metric.clear();
        by_id.extend(metric.id.map(|id| (id, &mut *metric)));
    }
    let mut select = transaction.prepare("SELECT metric_id, step, value FROM scalars ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(metric) = by_id.get_mut(&row.get(0)?) {
            metric.add(unsigned(row.get(1)?), row.get::<_, Option<f64>>(2)?.unwrap_or(f64::NAN));
        }
    }
    for table in ["histograms", "images", "texts", "tables", "matrices"] {
        let mut select = transaction.prepare(&format!("SELECT metric_id, step FROM {table} ORDER BY id"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(metric) = by_id.get_mut(&row.get(0)?) {
                metric.add(unsigned(row.get(1)?), f64::NAN);
            }
        }
    }
    Ok(())
}

pub(crate) fn load_metrics(connection: &Connection) -> rusqlite::Result<Vec<MetricRow>> {
    Ok(read::metrics(connection)?
        .into_iter()
        .map(|summary| MetricRow {
            id: Some(summary.id),
            kind: summary.kind,
            name: Arc::from(summary.name),
            count: summary.count,
            last: summary.last.unwrap_or(f64::NAN),
            last_step: summary.last_step.unwrap_or(0),
            min: summary.min,
            max: summary.max,
            changed: false,
        })
        .collect())
}

/// A count as SQLite's integer of 63 bits.
pub(crate) fn sql_integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// SQLite's integer as a count.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn finite_or_zero(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}
