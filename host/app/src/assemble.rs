//! From a recipe to graphs: components found, settings validated by their plugins, the experiment traced with the others behind handles.

use crate::loader::{CallbackHandle, Catalog, DatasetHandle, ExperimentHandle, LoggerHandle, Plugin, PluginError, TracedHandle};
use crate::precision;
use crate::recipe::{ComponentText, GroupRule, LISTS, Recipe, RecipeError, ResolvedComponent, ResolvedRecipe, set_field};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use solstice_engine::{CompileOptions, Precision};
use solstice_ir::{Graph, Op, Parameter, Role, TensorType};
use solstice_plugin_abi::wire::{Accumulate, DatasetSpec, Kind, ParamGroup, StepRequest, StepTrace, TraceRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds of the lists of a recipe.
const LIST_KINDS: [Kind; LISTS.len()] = [Kind::Metric, Kind::Transform, Kind::Callback, Kind::Logger];

/// Kinds of the slots of a recipe.
const SLOT_KINDS: [(&str, Kind); 5] = [
    ("experiment", Kind::Experiment),
    ("model", Kind::Model),
    ("dataset", Kind::Dataset),
    ("optimizer", Kind::Optimizer),
    ("schedule", Kind::LrSchedule),
];

/// A recipe with its components created.
pub struct Assembly {
    /// Canonical settings.
    pub resolved: ResolvedRecipe,
    /// The data set, not yet opened.
    pub dataset: Arc<DatasetHandle>,
    /// The plugins behind the components, each once.
    pub plugins: Vec<Arc<Plugin>>,
    /// Names and handles, in the order of the recipe.
    pub callbacks: Vec<(String, CallbackHandle)>,
    /// Names and handles, in the order of the recipe.
    pub loggers: Vec<(String, LoggerHandle)>,
    experiment: ExperimentHandle,
    traced: BTreeMap<String, TracedHandle>,
    metric_names: Vec<(String, String)>,
    // Plugin of each slot, for settings that are changed while the run goes on.
    plugin_of: BTreeMap<String, (Kind, Arc<Plugin>)>,
}

impl Assembly {
    /// Validates every component and creates it. Reads no data.
    pub fn new(recipe: &Recipe, catalog: &Catalog) -> Result<Assembly> {
        let resolved = resolve(recipe, catalog)?;
        let text = |component: &ResolvedComponent| component.config.to_string();
        let part = |slot: &str| &resolved.components[slot];
        let mut plugins: Vec<Arc<Plugin>> = vec![];
        let mut plugin_of = BTreeMap::new();
        let mut plugin = |slot: &str, kind: Kind, id: &str| -> Result<Arc<Plugin>> {
            let plugin = catalog.plugin(kind, id)?;
            if !plugins.iter().any(|known: &Arc<Plugin>| known.path == plugin.path) {
                plugins.push(plugin.clone());
            }
            plugin_of.insert(slot.to_owned(), (kind, plugin.clone()));
            Ok(plugin)
        };
        let dataset = part("dataset");
        let dataset = plugin("dataset", Kind::Dataset, &dataset.id)?.create_dataset(&dataset.id, &text(dataset))?;
        let experiment = part("experiment");
        let experiment = plugin("experiment", Kind::Experiment, &experiment.id)?.create_experiment(&experiment.id, &text(experiment))?;
        let mut traced = BTreeMap::new();
        for (slot, kind) in [("model", Kind::Model), ("optimizer", Kind::Optimizer), ("schedule", Kind::LrSchedule)] {
            let component = part(slot);
            let handle = plugin(slot, kind, &component.id)?.create_traced(kind, &component.id, &text(component))?;
            traced.insert(slot.to_owned(), handle);
        }
        let (mut metric_names, mut callbacks, mut loggers) = (vec![], vec![], vec![]);
        for (list, kind) in LISTS.iter().zip(LIST_KINDS) {
            for (index, component) in resolved.lists[*list].iter().enumerate() {
                let slot = format!("{list}.{index}");
                let plugin = plugin(&slot, kind, &component.id)?;
                // What two of one kind keep must not share a name.
                let repeated = resolved.lists[*list][..index].iter().any(|other| other.id == component.id);
                let joint = if kind == Kind::Metric { '.' } else { '-' };
                let name = if repeated { format!("{}{joint}{index}", component.id) } else { component.id.clone() };
                match kind {
                    Kind::Callback => callbacks.push((name, plugin.create_callback(&component.id, &text(component))?)),
                    Kind::Logger => loggers.push((name, plugin.create_logger(&component.id, &text(component))?)),
                    Kind::Metric => metric_names.push((slot.clone(), name)),
                    _ => {}
                }
                if kind != Kind::Logger {
                    traced.insert(slot, plugin.create_traced(kind, &component.id, &text(component))?);
                }
            }
        }
        Ok(Assembly { resolved, dataset: Arc::new(dataset), plugins, callbacks, loggers, experiment, traced, metric_names, plugin_of })
    }

    /// The settings of a slot with one field changed, checked by their plugin.
    pub fn with_field(&self, slot: &str, path: &[String], value: &Value) -> Result<Value> {
        let Some((kind, plugin)) = self.plugin_of.get(slot) else { bail!("the recipe has no `{slot}`") };
        let component = self.resolved.component(slot);
        let mut config = component.config.clone();
        set_field(&mut config, path, &value.to_string()).map_err(anyhow::Error::msg)?;
        Ok(plugin.validate_config(*kind, &component.id, &config.to_string())?)
    }

    /// The schema of a slot's settings; none where its plugin does not tell.
    pub fn schema(&self, slot: &str) -> Option<&Value> {
        let (kind, plugin) = self.plugin_of.get(slot)?;
        let id = &self.resolved.component(slot).id;
        plugin.components().ok()?.iter().find(|info| info.kind == *kind && info.id == *id).map(|info| &info.schema)
    }

    /// Finds, downloads and reads the data.
    pub fn open_data(&self) -> Result<DatasetSpec> {
        self.dataset.open()?;
        Ok(self.dataset.spec()?)
    }

    /// The experiment's graph for one split, as a step of one batch; `batch.*` are still plain inputs.
    pub fn step(&self, entry: &str, split: &str, spec: &DatasetSpec) -> Result<StepTrace> {
        let groups = if entry == "train_step" { self.groups(spec)? } else { Groups::default() };
        self.step_with(entry, split, spec, &groups, None)
    }

    // The options are carried out by the code that the experiment's plugin was built with; an older one would leave them out without a word.
    fn check_options(&self, request: &StepRequest) -> Result<()> {
        let used = request.accumulate.is_some()
            || request.clip.is_some()
            || !request.groups.is_empty()
            || !request.transforms.is_empty()
            || !request.shadows.is_empty();
        let (_, plugin) = &self.plugin_of["experiment"];
        if used && plugin.manifest.abi.starts_with("1.0.") {
            bail!(
                "the plugin `{}` was built for ABI {}, whose steps know no accumulation, clipping, groups, transforms or callbacks: build it again",
                plugin.manifest.name,
                plugin.manifest.abi
            );
        }
        Ok(())
    }

    /// Which parameters belong to the groups of the recipe.
    pub fn groups(&self, spec: &DatasetSpec) -> Result<Groups> {
        match &self.resolved.trainer.groups[..] {
            [] => Ok(Groups::default()),
            rules => Groups::find(rules, &self.step_with("train_step", "train", spec, &Groups::default(), None)?.graph),
        }
    }

    /// The same with a say on groups, and as a part of a step that accumulates.
    pub fn step_with(
        &self,
        entry: &str,
        split: &str,
        spec: &DatasetSpec,
        groups: &Groups,
        accumulate: Option<Accumulate>,
    ) -> Result<StepTrace> {
        let trainer = &self.resolved.trainer;
        let request = StepRequest {
            split: split.into(),
            batch_size: trainer.batch_size,
            fields: spec.fields.clone(),
            metrics: self.metric_names.clone(),
            facts: spec.facts.clone(),
            norms: trainer.norms,
            accumulate,
            clip: trainer.clip,
            groups: groups.groups.clone(),
            group_of: groups.group_of.clone(),
            transforms: (0..self.resolved.lists["transforms"].len()).map(|index| format!("transforms.{index}")).collect(),
            shadows: self.callbacks.iter().enumerate().map(|(index, (name, _))| (format!("callbacks.{index}"), name.clone())).collect(),
        };
        self.check_options(&request)?;
        let tracer = |slot: &str, entry: &str, request: &TraceRequest| -> Result<Graph, PluginError> {
            match self.traced.get(slot) {
                Some(handle) => handle.trace(entry, request),
                None => Err(PluginError::unknown_component(slot, self.traced.keys().map(String::as_str))),
            }
        };
        let trace = self.experiment.trace(entry, &request, &tracer)?;
        let is_scaled = trainer.precision == Precision::Mixed && entry == "train_step";
        Ok(if is_scaled { precision::scaled(trace, split, accumulate) } else { trace })
    }

    /// How the recipe's steps are compiled.
    pub fn compile_options(&self) -> CompileOptions {
        CompileOptions { precision: self.resolved.trainer.precision, ..CompileOptions::default() }
    }
}

/// Which group each parameter is in.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    groups: Vec<ParamGroup>,
    group_of: BTreeMap<String, usize>,
}

impl Groups {
    /// Finds the parameters of each rule. A rule that fits none, and rules that freeze all, are mistakes.
    pub fn find(rules: &[GroupRule], graph: &Graph) -> Result<Groups> {
        let mut group_of = BTreeMap::new();
        let params: Vec<(&str, usize)> = graph
            .parameters()
            .filter(|(_, parameter, _)| parameter.role == Role::Param)
            .map(|(_, parameter, ty)| (parameter.name.as_str(), ty.shape.len()))
            .collect();
        let names = || params.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        for (index, rule) in rules.iter().enumerate() {
            let whole = regex::Regex::new(&format!("^(?:{})$", rule.params)).context("a group's pattern")?;
            let fits = |(name, rank): &&(&str, usize)| whole.is_match(name) && rule.rank_max.is_none_or(|most| *rank <= most);
            let mut fitting = params.iter().filter(fits).peekable();
            if fitting.peek().is_none() {
                bail!(RecipeError(format!("trainer.groups.{index}: `{}` fits no parameter; there are {}", rule.params, names())));
            }
            for (name, _) in fitting {
                group_of.entry((*name).to_owned()).or_insert(index);
            }
        }
        let is_frozen = |name: &str| group_of.get(name).is_some_and(|index| rules[*index].frozen);
        if !params.is_empty() && params.iter().all(|(name, _)| is_frozen(name)) {
            bail!(RecipeError(format!("trainer.groups freezes every parameter ({}): nothing is left to train", names())));
        }
        let groups = rules.iter().map(|rule| ParamGroup { lr: rule.lr, weight_decay: rule.weight_decay, frozen: rule.frozen }).collect();
        Ok(Groups { groups, group_of })
    }
}

/// Checks every component's settings with its plugin and applies the overrides.
pub fn resolve(recipe: &Recipe, catalog: &Catalog) -> Result<ResolvedRecipe> {
    let mut components = BTreeMap::new();
    for (slot, kind) in SLOT_KINDS {
        components.insert(slot.to_owned(), resolve_component(recipe, slot, kind, catalog)?);
    }
    let mut lists = BTreeMap::new();
    for (list, kind) in LISTS.iter().zip(LIST_KINDS) {
        let parts = (0..recipe.lists[*list].len()).map(|index| resolve_component(recipe, &format!("{list}.{index}"), kind, catalog));
        lists.insert((*list).to_owned(), parts.collect::<Result<_>>()?);
    }
    Ok(ResolvedRecipe { name: recipe.name.clone(), expect: recipe.expect.clone(), components, lists, trainer: recipe.trainer.clone() })
}

/// Every slot of a recipe with the kind of its component: `model`, `metrics.0`.
pub fn slots(recipe: &Recipe) -> Vec<(String, Kind)> {
    let mut slots: Vec<(String, Kind)> = SLOT_KINDS.map(|(slot, kind)| (slot.to_owned(), kind)).into();
    for (list, kind) in LISTS.iter().zip(LIST_KINDS) {
        slots.extend((0..recipe.lists[*list].len()).map(|index| (format!("{list}.{index}"), kind)));
    }
    slots
}

/// Checks the settings of one slot with its plugin and applies its overrides.
pub fn resolve_component(recipe: &Recipe, slot: &str, kind: Kind, catalog: &Catalog) -> Result<ResolvedComponent> {
    let ComponentText { id, config } = recipe.component(slot);
    let plugin = catalog.plugin(kind, id).with_context(|| format!("recipe `{}`, {slot}", recipe.name))?;
    let mut value = plugin.validate_config(kind, id, config).with_context(|| format!("recipe `{}`, {slot}", recipe.name))?;
    let mut changed = false;
    for change in recipe.overrides.iter().filter(|change| change.slot == slot) {
        let place = format!("--set {slot}.{}={}", change.path.join("."), change.value);
        set_field(&mut value, &change.path, &change.value).map_err(|message| RecipeError(format!("{place}: `{id}`: {message}")))?;
        changed = true;
    }
    if changed {
        value = plugin.validate_config(kind, id, &value.to_string()).with_context(|| {
            let all: Vec<String> = recipe
                .overrides
                .iter()
                .filter(|change| change.slot == slot)
                .map(|change| format!("--set {slot}.{}={}", change.path.join("."), change.value))
                .collect();
            all.join(" ")
        })?;
    }
    Ok(ResolvedComponent { id: id.clone(), config: value })
}

/// Name of the resident table of a field.
pub fn table_name(split: &str, field: &str) -> String {
    format!("data.{split}.{field}")
}

/// Name of the input that carries the sample numbers of a resident batch: i32 `[batch]`.
pub const BATCH_INDEX: &str = "batch.index";

/// The graph with each input `batch.<field>` replaced by a gather from the resident table of that field (`[len, ..]`) at `batch.index`.
pub fn with_resident_tables(graph: &Graph, split: &str, len: u64, batch_size: usize) -> Graph {
    let mut out = Graph::new(graph.name.clone());
    let empty: Arc<str> = Arc::from("");
    let parameter = |name: String, role: Role| Op::Parameter(Parameter { name, role, init: None });
    let index_ty = TensorType::new(solstice_ir::DType::I32, [batch_size]);
    let index = out.push_typed(parameter(BATCH_INDEX.into(), Role::Input), vec![], index_ty, empty.clone(), empty.clone());
    let mut places = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let field = match &node.op {
            Op::Parameter(parameter) if parameter.role == Role::Input && parameter.name != "batch.mask" => {
                parameter.name.strip_prefix("batch.")
            }
            _ => None,
        };
        let place = match field {
            Some(field) => {
                let mut shape = node.ty.shape.clone();
                shape[0] = len as usize;
                let table_ty = TensorType::new(node.ty.dtype, shape);
                let table = out.push_typed(
                    parameter(table_name(split, field), Role::Table),
                    vec![],
                    table_ty,
                    node.scope.clone(),
                    node.location.clone(),
                );
                let gather = Op::Gather { axis: 0, batch_dims: 0 };
                out.push_typed(gather, vec![table, index], node.ty.clone(), node.scope.clone(), node.location.clone())
            }
            None => {
                let inputs = node.inputs.iter().map(|input| places[input.index()]).collect();
                out.push_typed(node.op.clone(), inputs, node.ty.clone(), node.scope.clone(), node.location.clone())
            }
        };
        places.push(place);
    }
    out.outputs = graph.outputs.iter().map(|output| solstice_ir::Output { node: places[output.node.index()], ..output.clone() }).collect();
    out.updates = graph.updates.iter().map(|update| solstice_ir::Update { node: places[update.node.index()], ..update.clone() }).collect();
    out
}
