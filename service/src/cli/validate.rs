//! `sanderling validate`.

use clap::Args;

use super::inputs::PipelineArgs;
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::validate::validate;

#[derive(Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

impl ValidateArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Vec<Failure>> {
        let PipelineArgs {
            pipeline,
            model,
            sets,
        } = self.pipeline;
        let valid = validate(&pipeline, &sets, model.as_deref(), call.functions)?;
        Ok(call.show(&valid)?)
    }
}
