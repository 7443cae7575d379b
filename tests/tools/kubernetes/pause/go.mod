module backupmx.io/tests/tools/kubernetes/pause

go 1.26.0
