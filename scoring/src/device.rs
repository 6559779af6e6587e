//! Where tensors are computed: on the CPU, or on a CUDA device where the build and the machine have one.
//!
//! Training computes its graph there. Serving computes the heads there, which are most of a score's
//! arithmetic; memory is folded on the CPU wherever the scores are, so that it is the same everywhere.

mod heads;

use std::fmt;

use candle_core::{DType, Device};

use crate::error::ScoringError;
use crate::kernels::numerics;
use crate::options::{Precision, ScoringDevice, ScoringOptions, TrainingDevice};

pub(crate) use heads::DeviceHeads;

/// What stands before the device in what fixes the rounding of a score; kernels of the CPU have none.
pub const DEVICE_MARK: char = '+';

/// The device that `wanted` comes to here, and what there is to say of it.
///
/// # Errors
/// [`ScoringError::Option`] where CUDA is asked for and cannot be had.
pub fn training_device(wanted: TrainingDevice) -> Result<(Device, String), ScoringError> {
    let on_cpu = |why: String| (Device::Cpu, format!("the CPU{why}"));
    match (wanted, cuda()) {
        (TrainingDevice::Cpu, _) => Ok(on_cpu(String::new())),
        (_, Ok(device)) => Ok((device, "the first CUDA device".to_string())),
        (TrainingDevice::Auto, Err(why)) => Ok(on_cpu(format!(", since {why}"))),
        (TrainingDevice::Cuda, Err(why)) => Err(ScoringError::Option {
            name: "model.training.device".to_string(),
            wanted: format!("`cpu` or `auto`, since {why}"),
        }),
    }
}

/// The first CUDA device, or why there is none.
fn cuda() -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no GPU in it (`--features cuda`)".to_string());
    }
    Device::new_cuda(0).map_err(|e| {
        // A backtrace may follow.
        let e = e.to_string();
        let first = e.lines().next().unwrap_or_default();
        format!("there is no CUDA device: {first}")
    })
}

/// Where scores are computed, once it is known what there is. Shown, it says so in words.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The tensors' device and type; without, the kernels of the CPU.
    tensors: Option<(Device, DType)>,
    numerics: String,
    said: String,
}

impl Placement {
    /// What `options` come to here.
    ///
    /// # Errors
    /// [`ScoringError::Option`] where a device is asked for that cannot be had, or a precision that the
    /// device does not have.
    pub fn of(options: &ScoringOptions) -> Result<Self, ScoringError> {
        let refused = |key: &str, wanted: String| ScoringError::Option {
            name: format!("scoring.{key}"),
            wanted,
        };
        let precision = options.precision;
        match options.device {
            ScoringDevice::Cpu if precision == Precision::F32 => {
                Ok(Self::kernels("the CPU".to_string()))
            }
            ScoringDevice::Cpu => Err(refused(
                "precision",
                "`f32`, the only one of `device: cpu`".to_string(),
            )),
            ScoringDevice::Graph if precision == Precision::Bf16 => Err(refused(
                "precision",
                "`f32` or `f16`, since candle multiplies no bf16 on the CPU".to_string(),
            )),
            ScoringDevice::Graph => Ok(Self::tensors(
                Device::Cpu,
                precision,
                "graph",
                "candle's tensors on the CPU",
            )),
            ScoringDevice::Auto | ScoringDevice::Cuda => match cuda() {
                Ok(device) => Ok(Self::tensors(
                    device,
                    precision,
                    "cuda",
                    "the first CUDA device",
                )),
                Err(why) if options.device == ScoringDevice::Auto => {
                    let precision = match precision {
                        Precision::F32 => "",
                        _ => " in f32",
                    };
                    Ok(Self::kernels(format!("the CPU{precision}, since {why}")))
                }
                Err(why) => Err(refused("device", format!("`cpu` or `auto`, since {why}"))),
            },
        }
    }

    fn kernels(said: String) -> Self {
        Self {
            tensors: None,
            numerics: numerics(),
            said,
        }
    }

    fn tensors(device: Device, precision: Precision, name: &str, said: &str) -> Self {
        let (dtype, precision) = match precision {
            Precision::F32 => (DType::F32, "f32"),
            Precision::F16 => (DType::F16, "f16"),
            Precision::Bf16 => (DType::BF16, "bf16"),
        };
        Self {
            tensors: Some((device, dtype)),
            numerics: format!("{}{DEVICE_MARK}{name}-{precision}", numerics()),
            said: format!("{said} in {precision}"),
        }
    }

    /// The tensors' device and type, unless the CPU's kernels score.
    pub(crate) fn device(&self) -> Option<(&Device, DType)> {
        (self.tensors.as_ref()).map(|(device, dtype)| (device, *dtype))
    }

    /// What fixes the rounding of a score.
    pub(crate) fn numerics(&self) -> &str {
        &self.numerics
    }
}

impl Default for Placement {
    /// On the CPU.
    fn default() -> Self {
        Self::kernels("the CPU".to_string())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_says_so_and_cuda_is_refused() {
        let (device, said) = training_device(TrainingDevice::Auto).unwrap();
        assert!(
            device.is_cpu() && said.contains("--features cuda"),
            "{said}"
        );
        let refused = training_device(TrainingDevice::Cuda)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("training.device"), "{refused}");
        assert!(training_device(TrainingDevice::Cpu).unwrap().0.is_cpu());

        let options = |device, precision| ScoringOptions { device, precision };
        let auto = Placement::of(&options(ScoringDevice::Auto, Precision::F16)).unwrap();
        assert!(auto.device().is_none());
        let said = auto.to_string();
        assert!(
            said.contains("in f32") && said.contains("--features cuda"),
            "{said}"
        );
        let cuda = Placement::of(&options(ScoringDevice::Cuda, Precision::F32));
        let refused = cuda.unwrap_err().to_string();
        assert!(
            refused.contains("scoring.device") && refused.contains("--features cuda"),
            "{refused}"
        );
    }

    #[test]
    fn a_precision_that_a_device_does_not_have_is_refused() {
        for (device, precision) in [
            (ScoringDevice::Cpu, Precision::F16),
            (ScoringDevice::Graph, Precision::Bf16),
        ] {
            let refused = Placement::of(&ScoringOptions { device, precision });
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("scoring.precision") && refused.contains("`f32`"),
                "{refused}"
            );
        }
    }
}
