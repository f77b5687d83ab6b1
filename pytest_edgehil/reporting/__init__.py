"""What people and machines read after a run: terminal, results.json, JUnit, Allure, the CI summary.

Everything here consumes `model.record.TestRecord` and nothing else of the house; only `allure_sink` imports Allure.
"""
