{{/* Name of everything in the release's namespace; of what is cluster-wide, with the namespace, so that two releases fit. */}}
{{- define "runyard.name" -}}
{{- if eq .Release.Name "runyard" -}}runyard-operator{{- else -}}{{ printf "%s-runyard-operator" .Release.Name | trunc 63 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "runyard.clusterName" -}}
{{ printf "%s:%s" .Release.Namespace (include "runyard.name" .) }}
{{- end -}}

{{- define "runyard.selectorLabels" -}}
app.kubernetes.io/name: runyard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "runyard.labels" -}}
{{ include "runyard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Names of Secrets, written as strings or, as in a pod, as {name: ...}. */}}
{{- define "runyard.imagePullSecrets" -}}
{{- range . }}
- name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
{{- end }}
{{- end -}}

{{/*
Those of the values, and 30 s on a node that is gone, as runs have: Kubernetes' own default keeps a dead replica for
300 s, and no other takes its place meanwhile. A toleration of the values that covers such a taint stands alone.
*/}}
{{- define "runyard.tolerations" -}}
{{- with .Values.tolerations }}{{ toYaml . }}{{ end }}
{{- range $taint := list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" }}
{{- $covered := false }}
{{- range $.Values.tolerations }}
{{- if and (has (.key | default "") (list "" $taint)) (has (.effect | default "") (list "" "NoExecute")) }}
{{- $covered = true }}
{{- end }}
{{- end }}
{{- if not $covered }}
- {key: {{ $taint }}, operator: Exists, effect: NoExecute, tolerationSeconds: 30}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the operator may do where runs live: exactly what it does. It reads no Secret, and deletes nothing but Jobs. */}}
{{- define "runyard.rules" -}}
- apiGroups: [runyard.dev]
  resources: [trainingruns]
  verbs: [get, list, watch, delete] # ttlSecondsAfterFinished
- apiGroups: [runyard.dev]
  resources: [trainingruns/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs/status]
  verbs: [patch] # of the Job that holds a run's place in a queue of Kueue
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list] # why Kueue lets a run wait
- apiGroups: [kueue.x-k8s.io]
  resources: [workloadpriorityclasses]
  verbs: [list] # whether queue.priorityClassName is one
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]
  verbs: [get] # how many are ahead of a run
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list, watch]
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
