//! The power-management chip of a Raspberry Pi 5, through `vcgencmd pmic_read_adc`.
//!
//! Scope: the rails that the chip regulates, summed and corrected to the board's input power. The chip does not see
//! what USB devices and the 5 V pins draw, nor its own conversion loss.
//! Update period: 100 ms at best, since every reading starts a process. Provenance: derived, by the line that a
//! community of owners fitted to a USB power meter, `P_input = 1.1451 * P_rails + 0.5879 W`. Systematic term: 10 %,
//! assumed from the spread between published fits. Earlier boards have no current sensing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::{Discovery, Reading, Scope, SearchPaths, Sensor, SensorInfo, SensorKind};
use crate::clock;
use crate::energy::Provenance;
use crate::error::{ProfilerError, Result};

const NAME: &str = "pmic";
/// Slope of the fitted line from rail power to input power.
const INPUT_PER_RAIL: f64 = 1.1451;
/// Its intercept.
const INPUT_OFFSET_W: f64 = 0.5879;

/// The power-management chip.
pub struct Pmic {
    info: SensorInfo,
    vcgencmd: PathBuf,
}

/// Adds the chip where the firmware answers with rails.
pub fn discover(paths: &SearchPaths, discovery: &mut Discovery) {
    let info = SensorInfo {
        name: NAME.to_owned(),
        kind: SensorKind::Power,
        scope: Scope::Board { rail: "input".to_owned() },
        update_period_s: 0.1,
        // 12 bits over about 10 A on a rail of about 1 V, over one period.
        resolution_j: 2.4e-3 * 0.1,
        range_j: None,
        systematic_relative: 0.10,
        provenance: Provenance::Derived,
        counts_in_total: true,
        description: format!(
            "rail power of the PMIC, corrected to input power: {INPUT_PER_RAIL} P + {INPUT_OFFSET_W} W"
        ),
    };
    let mut sensor = Pmic { info, vcgencmd: paths.vcgencmd.clone() };
    // Most machines have no such command, and earlier boards answer with an error text: neither is a problem.
    if sensor.read(&mut Vec::new()).is_ok() {
        discovery.sensors.push(Box::new(sensor));
    }
}

impl Sensor for Pmic {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn read(&mut self, readings: &mut Vec<Reading>) -> Result<()> {
        let before_s = clock::now_s();
        let output = Command::new(&self.vcgencmd).arg("pmic_read_adc").output();
        let output = output.map_err(ProfilerError::sensor(NAME))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let rails_w = rail_power_w(&text)
            .ok_or_else(|| ProfilerError::sensor(NAME)(format!("no rails in `{}`", text.trim())))?;
        // The firmware reads the converters somewhere within the call.
        let time_s = (before_s + clock::now_s()) / 2.0;
        readings.push(Reading { time_s, value: INPUT_PER_RAIL * rails_w + INPUT_OFFSET_W });
        Ok(())
    }
}

/// The summed power of all rails with a current and a voltage in the output of `pmic_read_adc`, whose lines are
/// `VDD_CORE_A current(7)=1.91102000A` and `VDD_CORE_V volt(15)=0.87355220V`. `None` without any such rail.
pub fn rail_power_w(text: &str) -> Option<f64> {
    let mut currents = BTreeMap::new();
    let mut voltages = BTreeMap::new();
    for line in text.lines() {
        let Some((label, reading)) = line.trim().split_once(char::is_whitespace) else { continue };
        let Some((_, value)) = reading.split_once('=') else { continue };
        let (rails, rail, value) = match (label.strip_suffix("_A"), label.strip_suffix("_V")) {
            (Some(rail), _) => (&mut currents, rail, value.trim().strip_suffix('A')),
            (_, Some(rail)) => (&mut voltages, rail, value.trim().strip_suffix('V')),
            _ => continue,
        };
        if let Some(number) = value.and_then(|value| value.parse::<f64>().ok()).filter(|n| n.is_finite()) {
            rails.insert(rail, number);
        }
    }
    currents.iter().filter_map(|(rail, current_a)| Some(current_a * voltages.get(rail)?)).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUTPUT: &str = " 3V3_SYS_A current(1)=0.10000000A
  VDD_CORE_A current(7)=2.00000000A
   NO_VOLT_A current(9)=0.50000000A
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.09066000V
";

    #[test]
    fn rails_with_both_readings_add_up() {
        // 0.1 A * 3.3 V + 2 A * 0.8 V; the input voltage has no current, one current has no voltage.
        assert!((rail_power_w(OUTPUT).unwrap() - 1.93).abs() < 1e-12);
        assert_eq!(rail_power_w("error=1 error_msg=\"Command not registered\""), None);
        assert_eq!(rail_power_w("BATT_A current(1)=nanA\nBATT_V volt(2)=3.0V"), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_command_is_asked_and_the_correction_applied() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let command = root.path().join("vcgencmd");
        std::fs::write(
            &command,
            format!("#!/bin/sh\n[ \"$1\" = pmic_read_adc ] && cat <<'END'\n{OUTPUT}END\n"),
        )
        .unwrap();
        std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).unwrap();
        let paths = SearchPaths { vcgencmd: command, ..SearchPaths::default() };
        let mut discovery = Discovery::default();
        discover(&paths, &mut discovery);
        let mut readings = Vec::new();
        discovery.sensors[0].read(&mut readings).unwrap();
        assert!((readings[0].value - (1.1451 * 1.93 + 0.5879)).abs() < 1e-12);
        assert_eq!(discovery.sensors[0].info().provenance, Provenance::Derived);
    }

    proptest! {
        /// Whatever rails there are, in whatever order their lines come, the sum is that of their products.
        #[test]
        fn any_set_of_rails_is_summed(
            rails in prop::collection::btree_map("[A-Z0-9]{1,6}", (0.0..10.0_f64, 0.0..6.0_f64), 1..12),
            voltages_first: bool,
        ) {
            let currents: String =
                rails.iter().map(|(rail, (a, _))| format!("  {rail}_A current(3)={a:.8}A\n")).collect();
            let voltages: String =
                rails.iter().map(|(rail, (_, v))| format!("  {rail}_V volt(4)={v:.8}V\n")).collect();
            let text = if voltages_first { voltages + &currents } else { currents + &voltages };
            let expected: f64 = rails.values().map(|(a, v)| a * v).sum();
            // Eight decimals: each product is off by at most (10 + 6) * 5e-9, for up to 11 rails.
            prop_assert!((rail_power_w(&text).unwrap() - expected).abs() < 11.0 * 16.0 * 5e-9);
        }

        /// No text makes the parser fail in any other way than by finding no rail.
        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            if let Some(power_w) = rail_power_w(&text) {
                prop_assert!(power_w.is_finite());
            }
        }
    }
}
