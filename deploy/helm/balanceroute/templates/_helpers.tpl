{{- define "balanceroute.name" -}}
{{- if contains "balanceroute" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-balanceroute" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The headless Service of the engines, and in mode epp the InferencePool. */}}
{{- define "balanceroute.ranks" -}}
{{- printf "%s-ranks" (include "balanceroute.name" .) -}}
{{- end -}}

{{- define "balanceroute.selector" -}}
app.kubernetes.io/name: balanceroute
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "balanceroute.labels" -}}
{{ include "balanceroute.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "balanceroute.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Of each container: no root, no privileges, nothing to be written but what is mounted. */}}
{{- define "balanceroute.confined" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{- define "balanceroute.settings" -}}
{{- $own := dict "host" "0.0.0.0" "port" .Values.ports.http "kubernetes_service" (include "balanceroute.ranks" .) -}}
{{- if gt (int .Values.ranks.perPort) 1 -}}
{{- $_ := set $own "intra_node_data_parallel_size" (int .Values.ranks.perPort) -}}
{{- end -}}
{{- if eq .Values.mode "epp" -}}
{{- $_ := set $own "grpc_port" .Values.ports.grpc -}}
{{- $_ := set $own "kubernetes_pool" (include "balanceroute.ranks" .) -}}
{{- end -}}
{{- merge $own .Values.settings | toYaml -}}
{{- end -}}
