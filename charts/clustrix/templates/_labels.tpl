{{/* Labels of everything that the chart makes. (list . "component") */}}
{{- define "clustrix.labels" -}}
{{- $top := index . 0 -}}
{{ include "clustrix.selector" . }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: clustrix
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name ($top.Chart.Version | replace "+" "_") }}
{{- end }}

{{/* What a selector may use: it never changes. */}}
{{- define "clustrix.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: clustrix
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
