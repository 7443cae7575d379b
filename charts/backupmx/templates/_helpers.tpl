{{/* The name of all objects of which there is one. */}}
{{- define "backupmx.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (print .Release.Name "-" .Chart.Name) -}}
{{- $name | trunc 54 | trimSuffix "-" }}-operator
{{- end }}

{{/* By what the operator's pods are selected. Relays bear the same name, but another component. */}}
{{- define "backupmx.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "backupmx.labels" -}}
{{ include "backupmx.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ print .Chart.Name "-" .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "backupmx.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "backupmx.fullname" .) }}
{{- else -}}
{{ required "serviceAccount.create is false: name an account in serviceAccount.name" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/* Whom the roles are given to. */}}
{{- define "backupmx.subjects" -}}
- kind: ServiceAccount
  name: {{ include "backupmx.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* An image's full name. Takes a list: the values below "image", and the chart's appVersion. */}}
{{- define "backupmx.image" -}}
{{- $image := first . -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (last .) }}{{ end -}}
{{- end }}
