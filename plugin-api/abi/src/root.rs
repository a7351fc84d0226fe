//! The exported header and how a host reads it.
//!
//! `abi_stable`'s own loader is not used: it keeps one module a *type*, so the second plugin would silently be the first one again, and it refuses an
//! older plugin in a newer host.

use crate::{AbiError, ErrorKind, PluginModule, PluginModule_Ref, guard};
use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{AbiInstability, AbiInstabilityErrors, check_layout_compatibility},
    library::{AbiHeaderRef, CheckTypeLayout, LibHeader, RootModuleError},
    marker_type::ErasedPrefix,
    prefix_type::{PrefixRef, PrefixTypeTrait},
    std_types::{RBoxError, RResult},
    type_layout::TLFieldOrFunction,
};
use std::fmt::Write;

/// A plugin exports its header as `SOLSTICE_PLUGIN_ROOT_<crate>`.
pub const ROOT_SYMBOL_PREFIX: &str = "SOLSTICE_PLUGIN_ROOT_";

/// The exported header: versions, layout, and the function that makes the module.
pub type RootHeader = LibHeader;

/// What that function returns.
pub type RootResult = RResult<PrefixRef<ErasedPrefix>, RootModuleError>;

/// The header for a module that `constructor` makes with [`root_result`].
///
/// # Safety
/// `constructor` must return what [`root_result`] returned.
pub const unsafe fn root_header(constructor: extern "C" fn() -> RootResult) -> RootHeader {
    // SAFETY: `root_result` erases a reference to a `PluginModule`.
    unsafe { LibHeader::from_constructor::<PluginModule_Ref>(constructor, CheckTypeLayout::Yes) }
}

/// Makes the module; called once, when the host upgrades the header.
pub fn root_result(make: impl FnOnce() -> PluginModule) -> RootResult {
    match guard(|| Ok(make().leak_into_prefix())) {
        RResult::ROk(module) => {
            // SAFETY: a prefix reference may be erased; the host casts it back after the layout check.
            RResult::ROk(unsafe { abi_stable::prefix_type::PrefixRefTrait::to_prefix_ref(module).cast::<ErasedPrefix>() })
        }
        RResult::RErr(error) => RResult::RErr(RootModuleError::Returned(RBoxError::from_fmt(&error))),
    }
}

/// Checks the header behind the root symbol and gives its module. Host only.
///
/// # Safety
/// `symbol` must be the address of a [`RootHeader`] in a library that is never unloaded.
pub unsafe fn open_root(symbol: *const ()) -> Result<PluginModule_Ref, AbiError> {
    let refuse = |message: String| AbiError::new(ErrorKind::PROTOCOL, message);
    // SAFETY: the caller promises the address; `upgrade` looks at the magic bytes before anything else.
    let header: AbiHeaderRef = unsafe { std::mem::transmute(symbol) };
    let header = header.upgrade().map_err(|error| refuse(one_line(&error.to_string())))?;
    let theirs = header.layout().ok_or_else(|| refuse("it hides the layout of its module".into()))?;
    // The older side is the interface. `plugin.minor <= host.minor` has been checked, so that is the plugin.
    check_layout_compatibility(theirs, <PluginModule_Ref as StableAbi>::LAYOUT).map_err(|errors| refuse(summary(&errors)))?;
    // SAFETY: the layout has just been checked.
    unsafe { header.unchecked_layout::<PluginModule_Ref>() }.map_err(|error| refuse(one_line(&error.to_string())))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}

/// One line from what abi_stable prints as hundreds.
fn summary(errors: &AbiInstabilityErrors) -> String {
    let mut line = String::from("its layout differs from this host's although the ABI version agrees");
    // The deepest place says most.
    let deepest = errors.errors.iter().max_by_key(|error| error.stack_trace.len());
    if let Some(error) = deepest.and_then(|error| error.errs.first()) {
        let _ = write!(line, ": {}", one_difference(error));
    }
    let path: Vec<&str> = deepest.iter().flat_map(|error| error.stack_trace.iter()).map(|found| name_of(&found.expected)).collect();
    if !path.is_empty() {
        let _ = write!(line, " (at {})", path.join(" > "));
    }
    line.push_str("; rebuild it against this host");
    one_line(&line)
}

fn name_of(place: &TLFieldOrFunction) -> &'static str {
    match place {
        TLFieldOrFunction::Field(field) => field.name(),
        TLFieldOrFunction::Function(function) => function.name.as_str(),
    }
}

fn one_difference(error: &AbiInstability) -> String {
    match error {
        AbiInstability::UnexpectedField(found) => format!("field `{}` where the host has `{}`", found.expected.name(), found.found.name()),
        AbiInstability::FieldCountMismatch(found) => format!("{} fields where the host has {}", found.expected, found.found),
        AbiInstability::TooManyVariants(found) => format!("{} variants where the host has {}", found.expected, found.found),
        AbiInstability::Name(found) => format!("type `{}` where the host has `{}`", found.expected.name(), found.found.name()),
        AbiInstability::Size(found) => format!("{} bytes where the host has {}", found.expected, found.found),
        other => one_line(&format!("{other:?}")),
    }
}

#[cfg(test)]
#[allow(dead_code, non_local_definitions, non_camel_case_types)]
mod tests {
    use super::*;
    use abi_stable::std_types::RString;

    mod of_1_0 {
        use super::*;
        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Table_Ref, prefix_fields = Table_Prefix)))]
        pub struct Table {
            #[sabi(last_prefix_field)]
            pub first: extern "C" fn(u64) -> RString,
        }
    }

    mod of_1_1 {
        use super::*;
        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Table_Ref, prefix_fields = Table_Prefix)))]
        pub struct Table {
            #[sabi(last_prefix_field)]
            pub first: extern "C" fn(u64) -> RString,
            pub second: extern "C" fn(u64) -> RString,
        }
    }

    mod broken {
        use super::*;
        #[repr(C)]
        #[derive(StableAbi)]
        #[sabi(kind(Prefix(prefix_ref = Table_Ref, prefix_fields = Table_Prefix)))]
        pub struct Table {
            #[sabi(last_prefix_field)]
            pub first: extern "C" fn(f64) -> RString,
        }
    }

    #[test]
    fn an_older_plugin_fits_a_newer_host_and_not_the_other_way() {
        let (old, new) = (<of_1_0::Table_Ref as StableAbi>::LAYOUT, <of_1_1::Table_Ref as StableAbi>::LAYOUT);
        assert!(check_layout_compatibility(old, new).is_ok());
        assert!(check_layout_compatibility(new, old).is_err());
    }

    #[test]
    fn a_changed_signature_is_one_readable_line() {
        let (theirs, ours) = (<broken::Table_Ref as StableAbi>::LAYOUT, <of_1_0::Table_Ref as StableAbi>::LAYOUT);
        let line = summary(&check_layout_compatibility(theirs, ours).unwrap_err());
        assert!(line.contains("`f64` where the host has `u64`") && line.contains("first"), "{line}");
        assert!(!line.contains('\n') && line.len() < 400, "{line}");
    }
}
