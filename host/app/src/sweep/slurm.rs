//! A sweep as an array job: one task a trial, each the command that a person would type.

use std::path::Path;

/// What the array job needs to know; paths are absolute, for a job starts elsewhere.
pub struct ArrayJob<'a> {
    /// Name of the job.
    pub name: &'a str,
    /// This program.
    pub program: &'a Path,
    /// The sweep file.
    pub file: &'a Path,
    /// Folder of the runs.
    pub runs_dir: &'a Path,
    /// Folder of the sweep, for the tasks' output.
    pub folder: &'a Path,
    /// Folder in which the command was typed: recipes may name data relative to it.
    pub current_dir: &'a Path,
    /// `--device` and the like.
    pub options: &'a [String],
    /// Number of trials.
    pub trial_count: usize,
    /// At once.
    pub workers: usize,
}

/// The text of the batch script.
pub fn script(job: &ArrayJob) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let options: String = job.options.iter().map(|option| format!(" {}", quoted(option))).collect();
    let output = job.folder.join("slurm-%a.log");
    format!(
        "#!/bin/sh\n\
         #SBATCH --job-name={name}\n\
         #SBATCH --array=0-{last}%{workers}\n\
         #SBATCH --output={output}\n\
         #SBATCH --open-mode=append\n\
         # A minute before the time limit the task saves its run; submitted again, it goes on.\n\
         #SBATCH --signal=B:TERM@60\n\
         # What a task may use is the site's affair: uncomment and change.\n\
         ##SBATCH --time=04:00:00\n\
         ##SBATCH --gres=gpu:1\n\
         ##SBATCH --cpus-per-task=4\n\
         cd {current_dir} || exit 1\n\
         exec {program} sweep {file} --runs-dir {runs_dir}{options} --trial \"$SLURM_ARRAY_TASK_ID\"\n",
        name = job.name.replace(|c: char| c.is_whitespace() || c == '"', "-"),
        last = job.trial_count - 1,
        workers = job.workers,
        // `sbatch` reads the line as a shell would.
        output = path(&output),
        current_dir = path(job.current_dir),
        program = path(job.program),
        file = path(job.file),
        runs_dir = path(job.runs_dir),
    )
}

/// A word that the shell reads as one.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_real_shell() {
        let words = ["plain/path-1.ron", "two words", "it's", "a=(lr: 1e-3, b: \"c\")", "$HOME", "", "*"];
        let line = words.map(quoted).join(" ");
        let output = std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {line}")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), words);
    }

    #[test]
    fn the_script_runs_one_trial_a_task() {
        let job = ArrayJob {
            name: "sweep-digits-01234567",
            program: Path::new("/opt/sol stice"),
            file: Path::new("/home/me/digits.ron"),
            runs_dir: Path::new("/home/me/runs"),
            folder: Path::new("/home/me/runs/sweep-digits-01234567"),
            current_dir: Path::new("/home/me"),
            options: &["--device".into(), "gpu".into()],
            trial_count: 20,
            workers: 4,
        };
        let text = script(&job);
        assert!(text.contains("\n#SBATCH --array=0-19%4\n"), "{text}");
        let last = text.lines().last().unwrap();
        let wanted =
            "exec '/opt/sol stice' sweep /home/me/digits.ron --runs-dir /home/me/runs --device gpu --trial \"$SLURM_ARRAY_TASK_ID\"";
        assert_eq!(last, wanted);
    }
}
