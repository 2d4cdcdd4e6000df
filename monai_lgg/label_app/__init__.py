"""The MONAI Label app: this folder is what a MONAI Label server is started with (``monai-lgg label start``).

``main.py``, ``tasks.py``, ``datastore.py`` and ``server.py`` speak to MONAI Label and need it installed; what they do
is done by ``versions.py``, ``predictions.py``, ``training.py`` and ``studies.py``, which need no server.
"""
