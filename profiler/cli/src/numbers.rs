//! Numbers on the command line, and what is said of those that mean nothing.

use std::num::NonZeroUsize;

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, Parser};

/// Parses the command line. Below 0, too, a number is a number, so that what is said of it is that it is too small.
pub(crate) fn parse<T: Parser>() -> Result<T, clap::Error> {
    let mut command = allowing_negative(T::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn allowing_negative(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let has_value = argument.get_action().takes_values();
        if has_value { argument.allow_negative_numbers(true) } else { argument }
    });
    command.mut_subcommands(allowing_negative)
}

/// How many of something there have to be: 1 or more.
pub(crate) fn count(text: &str) -> Result<NonZeroUsize, String> {
    at_most(text, LARGEST)
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| format!("expected a whole number from 1 to {LARGEST}"))
}

/// Threads, of which no machine has more; as many more could not be started.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    at_most(text, MOST_THREADS)
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| format!("expected a whole number from 1 to {MOST_THREADS}"))
}

/// How many of something there may be: 0 or more.
pub(crate) fn number(text: &str) -> Result<usize, String> {
    at_most(text, LARGEST).ok_or_else(|| format!("expected a whole number from 0 to {LARGEST}"))
}

/// Begin of a random stream.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// A length of time.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    above_zero(text).ok_or_else(|| "expected seconds above 0".to_owned())
}

/// A figure of which there has to be some.
pub(crate) fn amount(text: &str) -> Result<f64, String> {
    above_zero(text).ok_or_else(|| "expected a number above 0".to_owned())
}

/// An error, relative to a figure.
pub(crate) fn relative(text: &str) -> Result<f64, String> {
    let value = finite(text).filter(|value| *value >= 0.0);
    value.ok_or_else(|| "expected a number from 0 on, 0.01 for a hundredth".to_owned())
}

/// Seconds to either side.
pub(crate) fn offset(text: &str) -> Result<f64, String> {
    finite(text).ok_or_else(|| "expected seconds".to_owned())
}

/// Nothing that is counted here comes near it, and products of a few such numbers still fit 64 bits.
const LARGEST: usize = 1_000_000;
const MOST_THREADS: usize = 1024;

fn at_most(text: &str, most: usize) -> Option<usize> {
    text.parse().ok().filter(|number| *number <= most)
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

fn above_zero(text: &str) -> Option<f64> {
    finite(text).filter(|value| *value > 0.0)
}

/// A refused value in one sentence, like every other error; `None` for errors that need a hint behind them.
pub(crate) fn refusal(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let context = |kind| error.get(kind).map(ToString::to_string);
    // `--batch <BATCH>`
    let argument = context(ContextKind::InvalidArg)?;
    let option = argument.split(' ').next()?;
    let cause = std::error::Error::source(error)?;
    Some(format!("{option} {}: {cause}", context(ContextKind::InvalidValue)?))
}
