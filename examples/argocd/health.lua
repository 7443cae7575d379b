-- How Argo CD judges a BackupMx, from its conditions (docs/conditions.md). In the ConfigMap argocd-cm:
--   resource.customizations.health.backupmx.io_BackupMx: |
--     (this file)
-- A primary that is away is no fault of the relays: Healthy, and the message says it.

local conditions = {}
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    conditions[condition.type] = condition
  end
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local function verdict(status, kind)
  local condition = conditions[kind]
  local message = condition ~= nil and (condition.reason .. ": " .. condition.message) or "Waiting for the operator"
  return { status = status, message = message }
end

if obj.metadata.deletionTimestamp ~= nil then
  return verdict("Progressing", "Progressing")
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not seen this generation yet" }
end
if holds("Stalled") then
  return verdict("Degraded", "Stalled")
end
if conditions.Progressing ~= nil and conditions.Progressing.reason == "Paused" then
  return verdict("Suspended", "Progressing")
end
-- A scale-in may wait for days until its mail is gone. All else is over soon, and what looks wrong meanwhile may not be.
if holds("Progressing") and conditions.Progressing.reason ~= "ScalingIn" then
  return verdict("Progressing", "Progressing")
end
if holds("Degraded") then
  return verdict("Degraded", "Degraded")
end
if not holds("Ready") then
  return verdict("Degraded", "Ready")
end
if holds("Progressing") then
  return verdict("Progressing", "Progressing")
end
if not holds("Available") then
  return verdict("Progressing", "Available")
end
return verdict("Healthy", "PrimaryReachable")
