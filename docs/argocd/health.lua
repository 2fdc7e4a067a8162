-- Health of a runyard.dev/TrainingRun for Argo CD, as it sees a Job: Progressing until the model is there.
-- Reads conditions only; docs/argocd/README.md says where it goes.
local function find(type)
  for _, condition in ipairs((obj.status or {}).conditions or {}) do
    if condition.type == type then
      return condition
    end
  end
  return {}
end

local function holds(type)
  return find(type).status == "True"
end

if (obj.status or {}).observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this change yet" }
end

local health = "Progressing"
if holds("Stalled") then
  health = "Degraded"
elseif holds("Succeeded") then
  health = "Healthy"
elseif holds("Suspended") then
  health = "Suspended"
end
return { status = health, message = find("Ready").message or "" }
