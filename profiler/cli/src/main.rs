//! `joulewise`: where do the joules of my model go, and what would cheaper formats cost?
//!
//! Exit codes: 0 done, 1 a check such as `verify` failed, 2 the input or the machine is at fault, said in one sentence.

mod calibration;
mod commands;
mod meter;
mod numbers;
mod options;
mod output;
mod self_test;
mod session;
mod stages;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Per-layer energy profiles of transformer inference, and the engine that runs them.
///
/// MODEL is a directory in the Hugging Face layout, a `.gguf` file, `demo:distilbert` or `demo:gpt2` (built in), or `synth:<preset>`
/// (random weights at a real model's shape, e.g. `synth:gpt2`, `synth:mistral-7b`).
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Profile(commands::profile::Profile),
    Plan(commands::plan::Plan),
    Study(commands::study::Study),
    Verify(commands::verify::Verify),
    Eval(commands::eval::Eval),
    Generate(commands::generate::Generate),
    Classify(commands::classify::Classify),
    Embed(commands::embed::Embed),
    Bench(commands::bench::Bench),
    Quantize(commands::quantize::Quantize),
    Export(commands::export::Export),
    Sensors(commands::sensors::Sensors),
    Compare(commands::compare::Compare),
    Report(commands::report::Report),
    Reprice(commands::reprice::Reprice),
}

/// What a command that ran to its end found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing was checked, or every check passed.
    Passed,
    /// A check failed; the command has said which.
    Failed,
}

fn main() -> ExitCode {
    let line = match numbers::parse::<CommandLine>() {
        Ok(line) => line,
        Err(error) => match numbers::refusal(&error) {
            Some(sentence) => {
                output::complain(&anyhow::Error::msg(sentence));
                return ExitCode::from(2);
            }
            None => error.exit(),
        },
    };
    let result = match line.command {
        Command::Profile(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Study(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Classify(command) => command.run(),
        Command::Embed(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Quantize(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Sensors(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Reprice(command) => command.run(),
    };
    match result {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        // A reader that closed the pipe early (`| head`) has seen what it wanted.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(2)
        }
    }
}
